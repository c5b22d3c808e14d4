/*
 * lock MODEL SIDE: upscale a picture of SIDE x SIDE pixels in tiles in one thread. Meanwhile the other thread calls
 * sr_output_size, which needs the interpreter's lock. Prints how many of these calls returned while the picture was
 * computed. Then upscales again and closes the handle in the middle: prints the status of the running call, whether its
 * result equals the first one, and the status of a later call.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sr_deploy.h>

enum { ENOUGH = 5 };

static atomic_int begun, done;
static sr_upscaler *upscaler;
static sr_image input, output;
static sr_status status;

static void *compute(void *unused)
{
    begun = 1;
    status = sr_upscale(upscaler, &input, &output);
    done = 1;
    return unused;
}

/* Call sr_output_size up to `most` times while the other thread computes. Returns the number of calls that returned. */
static long ask(long most)
{
    long answers = 0;
    int32_t width, height;
    while (!begun)
        ;
    while (!done && answers < most)
        if (sr_output_size(upscaler, 4, 4, &width, &height) == SR_OK)
            answers++;
    return answers;
}

int main(int count, char **arguments)
{
    sr_options options = SR_OPTIONS_INIT;
    pthread_t thread;
    unsigned char *first;
    size_t bytes;
    int32_t side = count == 3 ? atoi(arguments[2]) : 0;
    options.tile = 64;
    if (side < 1 || sr_open(arguments[1], &options, &upscaler) != SR_OK)
        return 1;
    input = (sr_image){calloc((size_t)side * (size_t)side, 3), 0, 3 * (size_t)side, side, side, SR_U8, SR_RGB, SR_HOST};
    memset(input.data, 99, (size_t)side * input.stride / 2);
    sr_output_size(upscaler, side, side, &output.width, &output.height);
    output.stride = 3 * (size_t)output.width;
    bytes = (size_t)output.height * output.stride;
    output.data = calloc(bytes, 1);
    first = malloc(bytes);
    if (sr_upscale(upscaler, &input, &output) != SR_OK) /* loads everything, so the timed call only computes */
        return 1;
    memcpy(first, output.data, bytes);

    pthread_create(&thread, NULL, compute, NULL);
    printf("%ld\n", ask(1000000000));
    pthread_join(thread, NULL);

    begun = done = 0;
    memset(output.data, 0, bytes);
    pthread_create(&thread, NULL, compute, NULL);
    while (!done && !*(volatile unsigned char *)output.data) /* the first written tile shows that the call has begun */
        ;
    ask(ENOUGH);
    if (sr_close(upscaler) != SR_OK)
        return 1;
    pthread_join(thread, NULL);
    printf("%s %s\n", sr_status_name(status), memcmp(first, output.data, bytes) ? "different" : "the same");
    printf("%s\n", sr_status_name(sr_upscale(upscaler, &input, &output)));
    free(input.data);
    free(output.data);
    free(first);
    return 0;
}
