/*
 * plugin LIBRARY MODEL: load the library as a plugin, with RTLD_LOCAL, and use it in a thread with the smallest stack
 * that the header allows. Prints the size of the result for 3x2 pixels.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include <sr_deploy.h>

enum { STACK = 512 * 1024 };

static void *library;
static const char *model;

#define LOAD(name)                                                                                                 \
    static __typeof__(name) *load_##name(void)                                                                     \
    {                                                                                                              \
        __typeof__(name) *function;                                                                                \
        void *address = dlsym(library, #name);                                                                     \
        memcpy(&function, &address, sizeof function);                                                              \
        return function;                                                                                           \
    }
LOAD(sr_open)
LOAD(sr_output_size)
LOAD(sr_upscale)
LOAD(sr_last_error)
LOAD(sr_close)

static void *use(void *unused)
{
    static unsigned char small[18], large[4096];
    sr_image input = {small, sizeof small, 9, 3, 2, SR_U8, SR_RGB, SR_HOST}, output = {large, sizeof large, 0, 0, 0, SR_U8, SR_RGB, SR_HOST};
    sr_upscaler *upscaler;
    if (load_sr_open()(model, NULL, &upscaler)) {
        fprintf(stderr, "%s\n", load_sr_last_error()(NULL));
        return NULL;
    }
    load_sr_output_size()(upscaler, 3, 2, &output.width, &output.height);
    output.stride = 3 * (size_t)output.width;
    if (load_sr_upscale()(upscaler, &input, &output) == SR_OK)
        printf("%dx%d\n", output.width, output.height);
    load_sr_close()(upscaler);
    return unused;
}

int main(int count, char **arguments)
{
    pthread_t thread;
    pthread_attr_t small_stack;
    if (count != 3)
        return 2;
    model = arguments[2];
    if (!(library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL)))
        return fprintf(stderr, "%s\n", dlerror()), 1;
    pthread_attr_init(&small_stack);
    pthread_attr_setstacksize(&small_stack, STACK);
    if (pthread_create(&thread, &small_stack, use, NULL))
        return 1;
    pthread_join(thread, NULL);
    return 0;
}
