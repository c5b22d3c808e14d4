/*
 * Texts of the last errors, by handle and thread. They lie in thread-local memory, so a text can be stored even when
 * memory has run out. Part of sr_deploy.c.
 */
#ifndef SR_TEXTS_H
#define SR_TEXTS_H

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "sr_deploy.h"

#ifdef _WIN32
#define THREAD_LOCAL __declspec(thread)
#else
#define THREAD_LOCAL _Thread_local
#endif

enum { TEXTS = 16, TEXT_SIZE = 1024 }; /* 16 KiB for each thread that calls the library */

typedef struct text {
    const void *handle;
    unsigned long age; /* number of the failed call that stored it; 0: the place is free */
    char text[TEXT_SIZE];
} text;

static THREAD_LOCAL text texts[TEXTS];
static THREAD_LOCAL unsigned long calls;

/* Return the text of a handle, or NULL if its last call succeeded. */
static text *text_of(const void *handle)
{
    for (int i = 0; i < TEXTS; i++)
        if (texts[i].age && texts[i].handle == handle)
            return &texts[i];
    return NULL;
}

/* Forget the error of the handle's previous call. Every call begins with this. */
static void begin(const void *handle)
{
    text *old = text_of(handle);
    if (old)
        old->age = 0;
}

/* Return the place to reuse: a free one (age 0), else the one whose text is oldest. */
static text *oldest_text(void)
{
    text *oldest = &texts[0];
    for (int i = 1; i < TEXTS; i++)
        if (texts[i].age < oldest->age)
            oldest = &texts[i];
    return oldest;
}

/* If a text was cut because it did not fit, remove the last UTF-8 character, which may be incomplete. */
static void end_whole(char *formatted)
{
    size_t end = strlen(formatted), at = end;
    if (end + 1 < TEXT_SIZE)
        return;
    while (at > 0 && ((unsigned char)formatted[at - 1] & 0xC0) == 0x80)
        at--;
    formatted[at > 0 ? at - 1 : 0] = '\0';
}

/* Store the error text of a handle in this thread, formatted as by printf. Returns `status`. */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
static sr_status fail(const void *handle, sr_status status, const char *format, ...)
{
    text *place = text_of(handle);
    va_list values;
    if (!place)
        place = oldest_text();
    place->handle = handle;
    place->age = ++calls;
    va_start(values, format);
    vsnprintf(place->text, TEXT_SIZE, format, values);
    va_end(values);
    end_whole(place->text);
    return status;
}

#endif
