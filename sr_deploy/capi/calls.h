/*
 * Calls of bridge.py. All functions here need the interpreter's lock. Part of sr_deploy.c.
 */
#ifndef SR_CALLS_H
#define SR_CALLS_H

#include <Python.h>

#include <string.h>

#include "texts.h"

/* Return the current exception and clear it; NULL if there is none. The caller owns the reference. */
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

/* Store `what` and the current exception as the error text of a handle. Returns `status`. */
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

/* Call bridge.NAME(arguments), which returns (status, text, value). Steals the reference to `arguments`. The caller
 * owns *value, which is NULL if the call did not return. */
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

/* Return a text for bridge.py, or None for NULL. Bytes that are not UTF-8 are escaped, and Python restores them when it
 * opens a file of this name. */
static PyObject *utf8(const char *words)
{
    if (!words)
        Py_RETURN_NONE;
    return PyUnicode_DecodeUTF8(words, (Py_ssize_t)strlen(words), "surrogateescape");
}

/* A handle is the number that bridge.py returned. It is looked up in a table, so a closed handle is noticed. */
#define NUMBER(handle) ((unsigned long long)(uintptr_t)(handle))

/* Store the error for a NULL handle, or for a handle that is used before any sr_open. */
static sr_status not_open(const void *handle)
{
    if (!handle)
        return fail(NULL, SR_ERROR_ARGUMENT, "the handle is NULL; give one that sr_open made");
    return fail(handle, SR_ERROR_CLOSED, "no handle is open; give one that sr_open made");
}

/* The notify function of sr_options, stored as the bytes of a Python object. */
typedef struct listener {
    void (*notify)(void *context, const char *text);
    void *context;
} listener;

/* Pass one line of bytes to the program's notify function. */
static PyObject *notify(PyObject *self, PyObject *argument)
{
    listener receiver;
    const char *words = PyBytes_AsString(argument);
    if (!words)
        return NULL;
    memcpy(&receiver, PyBytes_AS_STRING(self), sizeof receiver);
    Py_BEGIN_ALLOW_THREADS /* notify may wait for a thread that needs the interpreter's lock */
    receiver.notify(receiver.context, words);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyMethodDef notify_method = {"notify", notify, METH_O, NULL};

/* Return the function that bridge.py calls with messages, or None if the program wants none. */
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
