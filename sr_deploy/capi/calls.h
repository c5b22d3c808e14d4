/*
 * Calling bridge.py, with the interpreter's lock held. Part of sr_deploy.c.
 */
#ifndef SR_CALLS_H
#define SR_CALLS_H

#include <Python.h>

#include <string.h>

#include "texts.h"

/* The exception that is set, cleared; NULL where there is none. */
static PyObject *take_exception(void)
{
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *kind, *error, *trace;
    PyErr_Fetch(&kind, &error, &trace);
    PyErr_NormalizeException(&kind, &error, &trace);
    Py_XDECREF(kind);
    Py_XDECREF(trace);
    return error;
#endif
}

static sr_status raised(const void *handle, sr_status status, const char *what)
{
    PyObject *error = take_exception();
    PyObject *words = error ? PyObject_Str(error) : NULL;
    const char *said = words ? PyUnicode_AsUTF8(words) : NULL;
    fail(handle, status, "%s (%s: %s)", what, error ? Py_TYPE(error)->tp_name : "no exception", said ? said : "");
    PyErr_Clear();
    Py_XDECREF(words);
    Py_XDECREF(error);
    return status;
}

/* Call bridge.NAME(arguments), which answers (status, text, value). Takes `arguments`, and gives *value. */
static sr_status call(const void *handle, const char *name, PyObject *arguments, PyObject **value)
{
    PyObject *bridge = PyImport_ImportModule("sr_deploy.capi.bridge");
    PyObject *function = NULL, *answer = NULL;
    sr_status status = SR_ERROR_INTERNAL;
    int code;
    const char *words;
    *value = NULL;
    if (!bridge)
        status = raised(handle, SR_ERROR_RUNTIME, "sr-deploy cannot be loaded; install it into the Python of "
                                                  "SR_DEPLOY_PYTHON, or build this library again");
    else if (!arguments || !(function = PyObject_GetAttrString(bridge, name)) ||
             !(answer = PyObject_CallObject(function, arguments)) ||
             !PyArg_ParseTuple(answer, "iyO", &code, &words, value))
        status = raised(handle, SR_ERROR_INTERNAL, "this is a bug in sr-deploy, please report it");
    else {
        status = (sr_status)code;
        Py_INCREF(*value);
        if (status != SR_OK)
            fail(handle, status, "%s", words);
    }
    Py_XDECREF(answer);
    Py_XDECREF(function);
    Py_XDECREF(bridge);
    Py_XDECREF(arguments);
    return status;
}

/* Text for bridge.py, None for NULL; any byte that is no UTF-8 comes out again where a file is opened by it. */
static PyObject *utf8(const char *words)
{
    if (!words)
        Py_RETURN_NONE;
    return PyUnicode_DecodeUTF8(words, (Py_ssize_t)strlen(words), "surrogateescape");
}

/* A handle is the number that bridge.py gave, so that it can be looked up whatever became of it. */
#define NUMBER(handle) ((unsigned long long)(uintptr_t)(handle))

static sr_status not_open(const void *handle)
{
    if (!handle)
        return fail(NULL, SR_ERROR_ARGUMENT, "the handle is NULL; give one that sr_open made");
    return fail(handle, SR_ERROR_CLOSED, "no handle is open; give one that sr_open made");
}

typedef struct listener {
    void (*notify)(void *context, const char *text);
    void *context;
} listener;

static PyObject *notify(PyObject *self, PyObject *argument)
{
    listener receiver;
    const char *words = PyBytes_AsString(argument);
    if (!words)
        return NULL;
    memcpy(&receiver, PyBytes_AS_STRING(self), sizeof receiver);
    Py_BEGIN_ALLOW_THREADS /* it may wait for a thread that wants the lock */
    receiver.notify(receiver.context, words);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyMethodDef notify_method = {"notify", notify, METH_O, NULL};

/* What bridge.py calls to notify; None where nobody listens. */
static PyObject *notifier(const sr_options *options)
{
    listener receiver = {options->notify, options->context};
    PyObject *self, *function;
    if (!receiver.notify)
        Py_RETURN_NONE;
    self = PyBytes_FromStringAndSize((const char *)&receiver, sizeof receiver);
    function = self ? PyCFunction_New(&notify_method, self) : NULL;
    Py_XDECREF(self);
    return function;
}

#endif
