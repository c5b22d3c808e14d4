/*
 * What a call leaves as it was, in the program around it: the floating-point environment and the handling of SIGINT. And
 * what became of the process since the interpreter started. Part of sr_deploy.c.
 */
#ifndef SR_SURROUNDINGS_H
#define SR_SURROUNDINGS_H

#include <Python.h>

#include <fenv.h>
#include <stdbool.h>

#include "texts.h"

#ifndef _WIN32
#include <pthread.h>
#include <signal.h>
#endif

/* Store the caller's floating-point environment and set the default one. A program may round in another direction or
 * flush small numbers to zero (FTZ, DAZ); results must not depend on it. Threads inherit the environment of the thread
 * that starts them, so this holds for the threads of a runtime too. */
static void set_default_floats(fenv_t *callers)
{
    fegetenv(callers);
    fesetenv(FE_DFL_ENV);
}

/* Restore the caller's floating-point environment, with its exception flags. */
static void restore_floats(const fenv_t *callers) { fesetenv(callers); }

static volatile bool forked; /* true in a child of a process in which the interpreter ran */

#ifdef _WIN32
static void watch_forks(void) {}
static void import_signal(void) { Py_XDECREF(PyImport_ImportModule("signal")); }
#else
static void note_fork(void) { forked = true; }

/* Note in children of this process that they are children. Only the forking thread lives on in a child: the threads of
 * the runtimes are gone, and a lock that one of them held is never released. Called once, under a lock. */
static void watch_forks(void)
{
    static bool watched;
    if (!watched)
        watched = pthread_atfork(NULL, NULL, note_fork) == 0;
}

/* Import Python's module `signal`, and restore the handling of SIGINT that was there before.
 *
 * The import installs Python's handler, even in an interpreter that was told to install none (seen in CPython 3.11;
 * python/cpython#111400). Packages import the module, OpenVINO's for one. It is imported here, once, before any of them
 * can, so that the handler is in place for a moment only. */
static void import_signal(void)
{
    struct sigaction before;
    const bool known = sigaction(SIGINT, NULL, &before) == 0;
    Py_XDECREF(PyImport_ImportModule("signal"));
    PyErr_Clear(); /* without the module nothing works, and the next import reports it */
    if (known)
        sigaction(SIGINT, &before, NULL);
}
#endif

/* Store the error for a call in a child of a fork. */
static sr_status refuse_fork(const void *handle)
{
    return fail(handle, SR_ERROR_RUNTIME,
                "this process was forked after sr_open, and the threads that compute stayed in its parent; fork before "
                "the first sr_open, or start a new program with exec");
}

#endif
