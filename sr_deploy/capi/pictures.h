/*
 * Checks of pictures, which need no interpreter, and their description for bridge.py. Part of sr_deploy.c.
 */
#ifndef SR_PICTURES_H
#define SR_PICTURES_H

#include <Python.h>

#include <stdint.h>

#include "texts.h"

/* Names and sizes in bytes of the depths, in the order of their numbers in sr_deploy.h. */
static const struct depth {
    const char *name;
    size_t size;
} depths[] = {{"SR_U8", 1}, {"SR_U16", 2}, {"SR_F32", 4}};

/* Names and numbers of channels of the layouts, in the order of their numbers in sr_deploy.h. */
static const struct layout {
    const char *name;
    size_t channels;
} layouts[] = {{"SR_RGB", 3}, {"SR_BGR", 3}, {"SR_GREY", 1}, {"SR_RGBA", 4}, {"SR_BGRA", 4}};

enum { DEPTHS = sizeof depths / sizeof *depths, LAYOUTS = sizeof layouts / sizeof *layouts };

/* Return the bytes of a row's pixels, without the gap after it. Width, depth and layout must have been checked. */
static uint64_t row_bytes(const sr_image *image)
{
    return (uint64_t)image->width * layouts[image->layout].channels * depths[image->depth].size;
}

/* Return the bytes from the first pixel to the last, without the gap after the last row. */
static size_t total_bytes(const sr_image *image)
{
    return image->stride * (size_t)(image->height - 1) + (size_t)row_bytes(image);
}

/* More bytes than a picture can have on any machine: a quarter of a process's addresses (47 bits on x86-64). Smaller
 * pictures cannot overflow the arithmetic below. */
static const uint64_t MAX_BYTES = sizeof(void *) > 4 ? (uint64_t)1 << 45 : (uint64_t)1 << 30;

/* Check everything about a picture that does not depend on the model. `which` and `index` name it in the error text. */
static sr_status check_image(const void *handle, const sr_image *image, const char *which, size_t index)
{
#define REFUSE(format, ...) \
    return fail(handle, SR_ERROR_ARGUMENT, "%s %zu: " format, which, index, __VA_ARGS__)
    if (!image->data)
        REFUSE("%s", "data is NULL; give the address of its first pixel");
    if (image->width < 1 || image->height < 1)
        REFUSE("a picture needs pixels, got %dx%d; give its width and height", image->width, image->height);
    if (image->depth < 0 || image->depth >= DEPTHS)
        REFUSE("unknown depth %d; give SR_U8, SR_U16 or SR_F32", image->depth);
    if (image->layout < 0 || image->layout >= LAYOUTS)
        REFUSE("unknown layout %d; give SR_RGB, SR_BGR, SR_GREY, SR_RGBA or SR_BGRA", image->layout);
    if (image->memory != SR_HOST && image->memory != SR_CUDA)
        REFUSE("unknown memory %d; give SR_HOST or SR_CUDA", image->memory);
    size_t value = depths[image->depth].size;
    if ((uintptr_t)image->data % value)
        REFUSE("data is not a multiple of %zu bytes, which %s needs; align the buffer", value,
               depths[image->depth].name);
    if (image->stride % value)
        REFUSE("a stride of %zu bytes is not a multiple of %zu, which %s needs; pad the rows", image->stride, value,
               depths[image->depth].name);
    if (image->stride < row_bytes(image))
        REFUSE("a stride of %zu bytes is less than the %llu that %d pixels of %s in %s take; give bytes, not pixels",
               image->stride, (unsigned long long)row_bytes(image), image->width, layouts[image->layout].name,
               depths[image->depth].name);
    if (row_bytes(image) > MAX_BYTES ||
        (uint64_t)(image->height - 1) > (MAX_BYTES - row_bytes(image)) / image->stride)
        REFUSE("%d rows of %zu bytes are more than memory can hold; give the picture in parts", image->height,
               image->stride);
    if (image->bytes && image->bytes < total_bytes(image))
        REFUSE("its buffer has %zu bytes, but %d rows of %zu bytes need %zu; give its true size", image->bytes,
               image->height, image->stride, total_bytes(image));
    return SR_OK;
#undef REFUSE
}

/* Check input and output `index` and that they match in depth, layout and memory. */
static sr_status check_pair(const void *handle, const sr_image *inputs, const sr_image *outputs, size_t index)
{
    sr_status status = check_image(handle, &inputs[index], "input", index);
    if (status == SR_OK)
        status = check_image(handle, &outputs[index], "output", index);
    if (status == SR_OK &&
        (inputs[index].depth != outputs[index].depth || inputs[index].layout != outputs[index].layout))
        status = fail(handle, SR_ERROR_ARGUMENT,
                      "output %zu is %s in %s, but its input is %s in %s; give both the same depth and layout", index,
                      layouts[outputs[index].layout].name, depths[outputs[index].depth].name,
                      layouts[inputs[index].layout].name, depths[inputs[index].depth].name);
    if (status == SR_OK && inputs[index].memory != outputs[index].memory)
        status = fail(handle, SR_ERROR_ARGUMENT,
                      "output %zu and its input lie in different memory; give both in SR_HOST or both in SR_CUDA",
                      index);
    return status;
}

/* Return a picture as a tuple for bridge.py: (memory, width, height, stride, depth, layout). The memory is a view, or
 * the address as a number if it lies on a GPU. */
static PyObject *describe(const sr_image *image, int access)
{
    PyObject *memory = image->memory == SR_CUDA
                           ? PyLong_FromUnsignedLongLong((uintptr_t)image->data)
                           : PyMemoryView_FromMemory(image->data, (Py_ssize_t)total_bytes(image), access);
    return memory ? Py_BuildValue("(Niinii)", memory, image->width, image->height, (Py_ssize_t)image->stride,
                                  image->depth, image->layout)
                  : NULL;
}

/* Return the tuples of `count` pictures in a tuple. */
static PyObject *describe_all(const sr_image *images, size_t count, int access)
{
    PyObject *all = PyTuple_New((Py_ssize_t)count);
    for (size_t i = 0; all && i < count; i++) {
        PyObject *one = describe(&images[i], access);
        if (one)
            PyTuple_SET_ITEM(all, (Py_ssize_t)i, one);
        else
            Py_CLEAR(all);
    }
    return all;
}

#endif
