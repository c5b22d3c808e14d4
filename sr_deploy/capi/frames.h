/*
 * Checks of video frames, which need no interpreter, and their description for bridge.py. What depends on the format is
 * checked there. Part of sr_deploy.c.
 */
#ifndef SR_FRAMES_H
#define SR_FRAMES_H

#include <Python.h>

#include "texts.h"

/* Return the number of planes: those before the first NULL. */
static int planes_of(const sr_frame *frame)
{
    int count = 0;
    while (count < SR_FRAME_PLANES && frame->planes[count])
        count++;
    return count;
}

/* Check everything about a frame that does not depend on its format. `which` names it in the error text. */
static sr_status check_frame(const void *handle, const sr_frame *frame, const char *which)
{
    if (!frame->format)
        return fail(handle, SR_ERROR_ARGUMENT, "%s: format is NULL; give a name such as \"yuv420p\"", which);
    if (!frame->planes[0])
        return fail(handle, SR_ERROR_ARGUMENT, "%s: planes[0] is NULL; give the address of its first row", which);
    if (frame->width < 1 || frame->height < 1)
        return fail(handle, SR_ERROR_ARGUMENT, "%s: a frame needs pixels, got %dx%d; give its width and height", which,
                    frame->width, frame->height);
    if (frame->reserved)
        return fail(handle, SR_ERROR_ARGUMENT, "%s: reserved is %d, expected 0; set the whole struct to zero first",
                    which, frame->reserved);
    for (int i = 0; i < planes_of(frame); i++)
        if (frame->bytes[i] > PTRDIFF_MAX || frame->strides[i] > PTRDIFF_MAX)
            return fail(handle, SR_ERROR_ARGUMENT,
                        "%s: plane %d has %zu bytes in rows of %zu, more than memory can hold; give its true size",
                        which, i, frame->bytes[i], frame->strides[i]);
    return SR_OK;
}

/* Return a frame as a tuple for bridge.py: (format, width, height, matrix, range, siting, planes). A plane is a tuple of
 * a view of its memory and its stride. */
static PyObject *describe_frame(const sr_frame *frame, int access)
{
    const int count = planes_of(frame);
    PyObject *planes = PyTuple_New(count);
    for (int i = 0; planes && i < count; i++) {
        PyObject *memory = PyMemoryView_FromMemory(frame->planes[i], (Py_ssize_t)frame->bytes[i], access);
        PyObject *plane = memory ? Py_BuildValue("(Nn)", memory, (Py_ssize_t)frame->strides[i]) : NULL;
        if (plane)
            PyTuple_SET_ITEM(planes, i, plane);
        else
            Py_CLEAR(planes);
    }
    return planes ? Py_BuildValue("(NiiiiiN)", utf8(frame->format), frame->width, frame->height, frame->matrix,
                                  frame->range, frame->siting, planes)
                  : NULL;
}

#endif
