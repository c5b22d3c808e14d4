/*
 * The Python interpreter in the process. The first call that needs it starts it with the packages of SR_PYTHON. It is
 * never stopped, because packages such as NumPy cannot be loaded a second time. Part of sr_deploy.c.
 */
#ifndef SR_INTERPRETER_H
#define SR_INTERPRETER_H

#include <Python.h>

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "surroundings.h"
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

/* Make Python's symbols visible to extension modules, which expect them in the global scope. They are not there if a
 * program loaded this library as a plugin with RTLD_LOCAL. */
static void make_symbols_global(void)
{
    Dl_info python;
    void *address;
    void (*function)(void) = Py_Initialize;
    memcpy(&address, &function, sizeof address); /* ISO C has no cast from a function pointer to void * */
    if (dladdr(address, &python) && python.dli_fname)
        dlopen(python.dli_fname, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD);
}
#endif

/* Return the path of the Python whose packages are used. */
static const char *executable(void)
{
    const char *named = getenv("SR_DEPLOY_PYTHON");
    return named && *named ? named : SR_PYTHON;
}

/* Start Python in isolated mode: it reads no environment variables, installs no signal handlers, and uses UTF-8. */
static PyStatus initialise(const char *python)
{
    PyPreConfig before;
    PyConfig config;
    PyStatus status;
    PyPreConfig_InitIsolatedConfig(&before);
    before.utf8_mode = 1;
#ifdef SR_PLAIN_MALLOC /* sanitizers and valgrind see every object only with plain malloc */
    before.allocator = PYMEM_ALLOCATOR_MALLOC;
#endif
    status = Py_PreInitialize(&before);
    if (PyStatus_Exception(status))
        return status;
    PyConfig_InitIsolatedConfig(&config);
    status = PyConfig_SetBytesString(&config, &config.program_name, python);
    if (!PyStatus_Exception(status)) /* Python finds the packages of a virtual environment by its executable */
        status = PyConfig_SetBytesString(&config, &config.executable, python);
    if (!PyStatus_Exception(status))
        status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    return status;
}

/* Make `import sr_deploy` find the package that this library was built from. */
static void put_package_first(void)
{
    PyObject *path = PySys_GetObject("path"), *folder = PyUnicode_DecodeFSDefault(SR_PACKAGES);
    if (path && folder && PySequence_Contains(path, folder) == 0)
        PyList_Insert(path, 0, folder);
    Py_XDECREF(folder);
    PyErr_Clear(); /* if this failed, the import reports it */
}

/* Return whether a file can be opened. */
static bool file_exists(const char *path)
{
#ifdef _WIN32
    return path != NULL; /* fopen on Windows takes no UTF-8; Python reports a missing file itself */
#else
    FILE *file = fopen(path, "rb");
    if (file)
        fclose(file);
    return file != NULL;
#endif
}

/* Start an interpreter that uses the packages of `python`, and release its lock. */
static sr_status start_with(const char *python)
{
    static bool refused; /* after a failed start, Python cannot be started again in this process */
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
    import_signal();
    PyEval_SaveThread();
    return SR_OK;
}

/* Start the interpreter unless one runs already, from an earlier call or because the program is a Python process. */
static sr_status start(void)
{
    sr_status status = SR_OK;
    lock();
    if (!Py_IsInitialized())
        status = start_with(executable());
    watch_forks();
    unlock();
    return status;
}

#endif
