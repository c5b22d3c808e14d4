/*
 * capi MODEL WIDTH HEIGHT CALLS: open the model on ONNX Runtime with one thread and call it. Prints the seconds of the
 * first sr_open, then those of every call.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <sr_deploy.h>

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

int main(int count, char **arguments)
{
    sr_options options = SR_OPTIONS_INIT;
    sr_image input = {NULL, 0, 0, 0, 0, SR_U8, SR_RGB, SR_HOST}, output = input;
    sr_upscaler *upscaler;
    double begun, *seconds;
    int calls = count == 5 ? atoi(arguments[4]) : 0;
    if (calls < 1)
        return 2;
    input.width = atoi(arguments[2]);
    input.height = atoi(arguments[3]);
    options.backend = "onnxruntime";
    options.memory = 1 << 28;
    options.threads = 1;
    begun = now();
    if (sr_open(arguments[1], &options, &upscaler) != SR_OK)
        return fprintf(stderr, "%s\n", sr_last_error(NULL)), 1;
    printf("%.9f\n", now() - begun);
    if (sr_output_size(upscaler, input.width, input.height, &output.width, &output.height) != SR_OK)
        return 1;
    input.stride = 3 * (size_t)input.width;
    output.stride = 3 * (size_t)output.width;
    input.data = calloc((size_t)input.height, input.stride);
    output.data = calloc((size_t)output.height, output.stride);
    seconds = calloc((size_t)calls, sizeof *seconds);
    if (!input.data || !output.data || !seconds)
        return 1;
    for (int i = 0; i < calls; i++) {
        begun = now();
        if (sr_upscale(upscaler, &input, &output) != SR_OK)
            return fprintf(stderr, "%s\n", sr_last_error(upscaler)), 1;
        seconds[i] = now() - begun;
    }
    for (int i = 0; i < calls; i++)
        printf("%.9f\n", seconds[i]);
    return 0;
}
