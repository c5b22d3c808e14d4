/*
 * The C library: the functions of sr_deploy.h. Arguments are checked here, without the interpreter. Everything else is
 * done by bridge.py, in an interpreter inside the process. `sr-deploy capi build` compiles this file and defines
 * SR_VERSION, SR_PYTHON (the executable whose packages are used) and SR_PACKAGES (the folder that contains the
 * package). The library allocates no memory itself and stores only the texts of the last errors.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdio.h>
#include <string.h>

#include "calls.h"
#include "frames.h"
#include "interpreter.h"
#include "pictures.h"
#include "sr_deploy.h"
#include "surroundings.h"
#include "texts.h"

const char *sr_version(void) { return SR_VERSION; }

const char *sr_status_name(sr_status status)
{
    switch (status) {
    case SR_OK: return "SR_OK";
    case SR_ERROR_ARGUMENT: return "SR_ERROR_ARGUMENT";
    case SR_ERROR_MODEL: return "SR_ERROR_MODEL";
    case SR_ERROR_RUNTIME: return "SR_ERROR_RUNTIME";
    case SR_ERROR_MEMORY: return "SR_ERROR_MEMORY";
    case SR_ERROR_CLOSED: return "SR_ERROR_CLOSED";
    case SR_ERROR_INTERNAL: return "SR_ERROR_INTERNAL";
    }
    return "no status"; /* a number that is none of the above */
}

const char *sr_last_error(const sr_upscaler *upscaler)
{
    const text *found = text_of(upscaler);
    return found ? found->text : "";
}

/* Sizes of the first published version of the structs that begin with their size. A struct that is longer than this
 * library knows is refused, because a wrong size looks the same as that of a newer header. */
enum { MIN_OPTIONS_SIZE = sizeof(sr_options), MIN_INFO_SIZE = sizeof(sr_info) };

/* Check the size field of a struct. `name` and `initialiser` are for the error text. */
static sr_status check_size(const void *handle, const char *name, const char *initialiser, size_t size, size_t oldest,
                            size_t newest)
{
    if (size >= oldest && size <= newest)
        return SR_OK;
    return fail(handle, SR_ERROR_ARGUMENT,
                "%s.size is %zu, but version %s of the library knows %zu; initialise it with %s, and use a library "
                "that is not older than the header the program was compiled with",
                name, size, SR_VERSION, newest, initialiser);
}

/* Copy the caller's options into `options`. Fields that an older struct lacks get their defaults. */
static sr_status read_options(const sr_options *given, sr_options *options)
{
    sr_status status;
    *options = (sr_options)SR_OPTIONS_INIT;
    if (!given)
        return SR_OK;
    status = check_size(NULL, "options", "SR_OPTIONS_INIT", given->size, MIN_OPTIONS_SIZE, sizeof *options);
    if (status != SR_OK)
        return status;
    memcpy(options, given, given->size);
    if (options->reserved)
        return fail(NULL, SR_ERROR_ARGUMENT,
                    "options.reserved is %d, expected 0; initialise the options with SR_OPTIONS_INIT",
                    options->reserved);
    return SR_OK;
}

/* Take the interpreter's lock, with the default floating-point environment. `floats` stores the caller's. */
static PyGILState_STATE enter(fenv_t *floats)
{
    set_default_floats(floats);
    return PyGILState_Ensure();
}

/* Release what `enter` took. */
static void leave(PyGILState_STATE held, const fenv_t *floats)
{
    PyGILState_Release(held);
    restore_floats(floats);
}

sr_status sr_open(const char *model, const sr_options *options, sr_upscaler **opened)
{
    sr_options taken;
    sr_status status;
    fenv_t floats;
    PyGILState_STATE held;
    PyObject *value;
    begin(NULL);
    if (!opened)
        return fail(NULL, SR_ERROR_ARGUMENT, "opened is NULL; give the address of an sr_upscaler pointer");
    *opened = NULL;
    if (!model)
        return fail(NULL, SR_ERROR_ARGUMENT, "model is NULL; give a model file or a name such as \"rt-x4\"");
    if (forked)
        return refuse_fork(NULL);
    if ((status = read_options(options, &taken)) != SR_OK)
        return status;
    set_default_floats(&floats); /* the interpreter reads numbers while it starts */
    status = start();
    restore_floats(&floats);
    if (status != SR_OK)
        return status;
    held = enter(&floats);
    status = call(NULL, "open_upscaler",
                  Py_BuildValue("(sN(NNKKiii))", SR_VERSION, utf8(model), utf8(taken.backend), notifier(&taken),
                                NUMBER(taken.cuda_stream), (unsigned long long)taken.memory, taken.threads, taken.tile,
                                taken.overlap),
                  &value);
    if (status == SR_OK)
        *opened = (sr_upscaler *)(uintptr_t)PyLong_AsUnsignedLongLong(value);
    Py_XDECREF(value);
    leave(held, &floats);
    return status;
}

sr_status sr_query(const sr_upscaler *upscaler, sr_info *info)
{
    sr_info filled = SR_INFO_INIT;
    sr_status status;
    fenv_t floats;
    PyGILState_STATE held;
    PyObject *value;
    const char *backend, *model;
    begin(upscaler);
    if (!upscaler || !Py_IsInitialized())
        return not_open(upscaler);
    if (forked)
        return refuse_fork(upscaler);
    if (!info)
        return fail(upscaler, SR_ERROR_ARGUMENT, "info is NULL; give the address of an sr_info");
    status = check_size(upscaler, "info", "SR_INFO_INIT", info->size, MIN_INFO_SIZE, sizeof filled);
    if (status != SR_OK)
        return status;
    held = enter(&floats);
    status = call(upscaler, "query", Py_BuildValue("(K)", NUMBER(upscaler)), &value);
    if (status == SR_OK) {
        if (PyArg_ParseTuple(value, "iiiiiiyy", &filled.scale, &filled.channels, &filled.halo, &filled.max_width,
                             &filled.max_height, &filled.max_batch, &backend, &model)) {
            snprintf(filled.backend, sizeof filled.backend, "%s", backend);
            snprintf(filled.model, sizeof filled.model, "%s", model);
            filled.size = info->size;
            memcpy(info, &filled, filled.size);
        } else {
            status = raised(upscaler, SR_ERROR_INTERNAL, "this is a bug in sr-deploy, please report it");
        }
    }
    Py_XDECREF(value);
    leave(held, &floats);
    return status;
}

sr_status sr_output_size(const sr_upscaler *upscaler, int32_t width, int32_t height, int32_t *output_width,
                         int32_t *output_height)
{
    sr_status status;
    fenv_t floats;
    PyGILState_STATE held;
    PyObject *value;
    begin(upscaler);
    if (!upscaler || !Py_IsInitialized())
        return not_open(upscaler);
    if (forked)
        return refuse_fork(upscaler);
    if (!output_width || !output_height)
        return fail(upscaler, SR_ERROR_ARGUMENT, "%s is NULL; give the address of an int32_t",
                    output_width ? "output_height" : "output_width");
    held = enter(&floats);
    status = call(upscaler, "output_size", Py_BuildValue("(Kii)", NUMBER(upscaler), width, height), &value);
    if (status == SR_OK && !PyArg_ParseTuple(value, "ii", output_width, output_height))
        status = raised(upscaler, SR_ERROR_INTERNAL, "this is a bug in sr-deploy, please report it");
    Py_XDECREF(value);
    leave(held, &floats);
    return status;
}

sr_status sr_upscale_batch(const sr_upscaler *upscaler, const sr_image *inputs, const sr_image *outputs, size_t count)
{
    sr_status status = SR_OK;
    fenv_t floats;
    PyGILState_STATE held;
    PyObject *value;
    begin(upscaler);
    if (!upscaler || !Py_IsInitialized())
        return not_open(upscaler);
    if (forked)
        return refuse_fork(upscaler);
    if (count && (!inputs || !outputs))
        return fail(upscaler, SR_ERROR_ARGUMENT,
                    "%s is NULL; give the address of an array with one sr_image for each picture",
                    inputs ? "outputs" : "inputs");
    if (count > PTRDIFF_MAX / sizeof(sr_image))
        return fail(upscaler, SR_ERROR_ARGUMENT,
                    "%zu pictures are more than memory can hold; give the number of pictures", count);
    for (size_t i = 0; i < count && status == SR_OK; i++)
        status = check_pair(upscaler, inputs, outputs, i);
    if (status != SR_OK)
        return status;
    held = enter(&floats);
    status = call(upscaler, "upscale",
                  Py_BuildValue("(KNN)", NUMBER(upscaler), describe_all(inputs, count, PyBUF_READ),
                                describe_all(outputs, count, PyBUF_WRITE)),
                  &value);
    Py_XDECREF(value);
    leave(held, &floats);
    return status;
}

sr_status sr_upscale(const sr_upscaler *upscaler, const sr_image *input, const sr_image *output)
{
    return sr_upscale_batch(upscaler, input, output, 1);
}

sr_status sr_upscale_frame(const sr_upscaler *upscaler, const sr_frame *input, const sr_frame *output)
{
    sr_status status;
    fenv_t floats;
    PyGILState_STATE held;
    PyObject *value;
    begin(upscaler);
    if (!upscaler || !Py_IsInitialized())
        return not_open(upscaler);
    if (forked)
        return refuse_fork(upscaler);
    if (!input || !output)
        return fail(upscaler, SR_ERROR_ARGUMENT, "%s is NULL; give the address of an sr_frame",
                    input ? "output" : "input");
    if ((status = check_frame(upscaler, input, "input")) != SR_OK ||
        (status = check_frame(upscaler, output, "output")) != SR_OK)
        return status;
    held = enter(&floats);
    status = call(
        upscaler, "upscale_frame",
        Py_BuildValue("(KNN)", NUMBER(upscaler), describe_frame(input, PyBUF_READ), describe_frame(output, PyBUF_WRITE)),
        &value);
    Py_XDECREF(value);
    leave(held, &floats);
    return status;
}

sr_status sr_close(sr_upscaler *upscaler)
{
    sr_status status;
    fenv_t floats;
    PyGILState_STATE held;
    PyObject *value;
    begin(upscaler);
    if (!upscaler)
        return SR_OK;
    if (!Py_IsInitialized())
        return not_open(upscaler);
    if (forked)
        return refuse_fork(upscaler);
    held = enter(&floats);
    status = call(upscaler, "close", Py_BuildValue("(K)", NUMBER(upscaler)), &value);
    Py_XDECREF(value);
    leave(held, &floats);
    return status;
}
