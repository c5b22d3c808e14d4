/*
 * lies MODEL sizes|pictures: make valid calls of every depth and layout with buffers of exactly the right size, then
 * one wrong call that the library cannot notice but a memory checker must: an output buffer that is a byte shorter than
 * stated, or an array of pictures that is shorter than stated. MODEL has scale 2.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sr_deploy.h>

enum { WIDTH = 5, HEIGHT = 3 };

static sr_upscaler *upscaler;

/* Allocate a picture whose buffer is `less` bytes shorter than it states. */
static sr_image made(int width, int height, int depth, int layout, size_t less)
{
    static const size_t values[] = {1, 2, 4}, channels[] = {3, 3, 1, 4, 4};
    sr_image image = {NULL, 0, 0, width, height, depth, layout, SR_HOST};
    size_t row = (size_t)width * channels[layout] * values[depth], bytes;
    image.stride = row + 4;
    bytes = image.stride * (size_t)(height - 1) + row - less;
    if (!(image.data = malloc(bytes)))
        exit(1);
    memset(image.data, 0, bytes);
    return image;
}

static void upscale(int depth, int layout, size_t less)
{
    sr_image input = made(WIDTH, HEIGHT, depth, layout, 0), output = made(2 * WIDTH, 2 * HEIGHT, depth, layout, less);
    printf("%d %d %s\n", depth, layout, sr_status_name(sr_upscale(upscaler, &input, &output)));
    free(input.data);
    free(output.data);
}

int main(int count, char **arguments)
{
    sr_options options = SR_OPTIONS_INIT;
    options.backend = "nearest"; /* the library writes through the same arrays whatever the backend, and valgrind is slow */
    options.threads = 1;
    options.memory = 1 << 28;
    if (count != 3 || sr_open(arguments[1], &options, &upscaler) != SR_OK)
        return 1;
    if (!strcmp(arguments[2], "pictures")) {
        sr_image *inputs = malloc(sizeof *inputs), *outputs = malloc(sizeof *outputs);
        *inputs = made(WIDTH, HEIGHT, SR_U8, SR_RGB, 0);
        *outputs = made(2 * WIDTH, 2 * HEIGHT, SR_U8, SR_RGB, 0);
        sr_upscale_batch(upscaler, inputs, outputs, 2);
        return 0;
    }
    for (int depth = 0; depth < 3; depth++)
        for (int layout = 0; layout < 5; layout++)
            upscale(depth, layout, 0);
    upscale(SR_U8, SR_RGB, 1);
    return sr_close(upscaler);
}
