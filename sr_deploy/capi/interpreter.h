/*
 * The interpreter inside the process: started by the first call that needs it, with the packages of SR_PYTHON, and never
 * stopped. Part of sr_deploy.c.
 */
#ifndef SR_INTERPRETER_H
#define SR_INTERPRETER_H

#include <Python.h>

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "texts.h"

#ifdef _WIN32
#include <windows.h>
#else
#include <dlfcn.h>
#include <pthread.h>
#endif

#ifdef _WIN32
static SRWLOCK starting = SRWLOCK_INIT;
static void lock(void) { AcquireSRWLockExclusive(&starting); }
static void unlock(void) { ReleaseSRWLockExclusive(&starting); }
static void make_symbols_global(void) {}
#else
static pthread_mutex_t starting = PTHREAD_MUTEX_INITIALIZER;
static void lock(void) { pthread_mutex_lock(&starting); }
static void unlock(void) { pthread_mutex_unlock(&starting); }

/* Extension modules expect Python's symbols in the global scope, which they are not where a program loaded us as a
 * plugin, with RTLD_LOCAL. */
static void make_symbols_global(void)
{
    Dl_info python;
    void *address;
    void (*function)(void) = Py_Initialize;
    memcpy(&address, &function, sizeof address);
    if (dladdr(address, &python) && python.dli_fname)
        dlopen(python.dli_fname, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD);
}
#endif

static const char *executable(void)
{
    const char *named = getenv("SR_DEPLOY_PYTHON");
    return named && *named ? named : SR_PYTHON;
}

static PyStatus initialise(const char *python)
{
    PyPreConfig before;
    PyConfig config;
    PyStatus status;
    PyPreConfig_InitIsolatedConfig(&before);
    before.utf8_mode = 1;
#ifdef SR_PLAIN_MALLOC /* so that sanitizers and valgrind see every object */
    before.allocator = PYMEM_ALLOCATOR_MALLOC;
#endif
    status = Py_PreInitialize(&before);
    if (PyStatus_Exception(status))
        return status;
    PyConfig_InitIsolatedConfig(&config);
    status = PyConfig_SetBytesString(&config, &config.program_name, python);
    if (!PyStatus_Exception(status)) /* through it Python finds the packages of a virtual environment */
        status = PyConfig_SetBytesString(&config, &config.executable, python);
    if (!PyStatus_Exception(status))
        status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    return status;
}

/* Let `import sr_deploy` find the very package that this library was built from. */
static void put_package_first(void)
{
    PyObject *path = PySys_GetObject("path"), *folder = PyUnicode_DecodeFSDefault(SR_PACKAGES);
    if (path && folder && PySequence_Contains(path, folder) == 0)
        PyList_Insert(path, 0, folder);
    Py_XDECREF(folder);
    PyErr_Clear(); /* what is amiss, the import will say */
}

static bool file_exists(const char *path)
{
#ifdef _WIN32
    return path != NULL; /* fopen takes no UTF-8 there; Python itself will say */
#else
    FILE *file = fopen(path, "rb");
    if (file)
        fclose(file);
    return file != NULL;
#endif
}

/* Start an interpreter that sees the packages of `python`, and let go of its lock. */
static sr_status start_with(const char *python)
{
    static bool refused; /* what failed half-way cannot be started again */
    const bool there = file_exists(python);
    PyStatus status;
    if (!there || refused)
        return fail(NULL, SR_ERROR_RUNTIME,
                    "%s %s; set the environment variable SR_DEPLOY_PYTHON to a Python %d.%d that has sr-deploy%s",
                    there ? "Python did not start before, and cannot be started again with" : "there is no Python at",
                    python, PY_MAJOR_VERSION, PY_MINOR_VERSION, refused ? ", and start this program again" : "");
    make_symbols_global();
    status = initialise(python);
    refused = PyStatus_Exception(status);
    if (refused)
        return fail(NULL, SR_ERROR_RUNTIME,
                    "Python did not start with %s (%s); set the environment variable SR_DEPLOY_PYTHON to a Python "
                    "%d.%d that has sr-deploy",
                    python, status.err_msg ? status.err_msg : "it does not say why", PY_MAJOR_VERSION,
                    PY_MINOR_VERSION);
    put_package_first();
    PyEval_SaveThread();
    return SR_OK;
}

/* Start the interpreter unless one runs: an earlier call's, or that of a program written in Python. */
static sr_status start(void)
{
    sr_status status = SR_OK;
    lock();
    if (!Py_IsInitialized())
        status = start_with(executable());
    unlock();
    return status;
}

#endif
