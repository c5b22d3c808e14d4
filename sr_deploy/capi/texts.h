/*
 * The texts of the last errors, by handle and thread. In the thread's own memory, so that there is one to leave also
 * where memory has run out. Part of sr_deploy.c.
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

enum { TEXTS = 16, TEXT_SIZE = 1024 };

typedef struct text {
    const void *handle;
    unsigned long age; /* of the call that left it; 0: the place is free */
    char text[TEXT_SIZE];
} text;

static THREAD_LOCAL text texts[TEXTS];
static THREAD_LOCAL unsigned long calls;

static text *text_of(const void *handle)
{
    for (int i = 0; i < TEXTS; i++)
        if (texts[i].age && texts[i].handle == handle)
            return &texts[i];
    return NULL;
}

/* Every call begins with this: what went wrong before is over. */
static void begin(const void *handle)
{
    text *old = text_of(handle);
    if (old)
        old->age = 0;
}

static text *oldest_text(void)
{
    text *oldest = &texts[0];
    for (int i = 1; i < TEXTS; i++)
        if (texts[i].age < oldest->age)
            oldest = &texts[i];
    return oldest;
}

/* Cut what was formatted at the end of a UTF-8 character where it did not fit. */
static void end_whole(char *formatted)
{
    size_t end = strlen(formatted), at = end;
    if (end + 1 < TEXT_SIZE)
        return;
    while (at > 0 && ((unsigned char)formatted[at - 1] & 0xC0) == 0x80)
        at--;
    formatted[at > 0 ? at - 1 : 0] = '\0';
}

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
