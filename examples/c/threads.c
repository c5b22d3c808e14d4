/*
 * Upscale frames in eight threads: threads MODEL.
 *
 * There are three ways to use a model in several threads: a handle for each thread, one handle behind a lock, and one
 * handle without a lock. All give the same bytes. The first needs memory for every handle, and the second lets only one
 * thread compute at a time. The third is usually the best.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sr_deploy.h>

enum { THREADS = 8, FRAMES = 4, WIDTH = 48, HEIGHT = 32 };

typedef struct worker {
    pthread_t thread;
    const char *model;
    sr_upscaler *shared;   /* NULL: the worker opens its own handle */
    pthread_mutex_t *lock; /* NULL: the worker takes no lock */
    int number;
    int failed;
    int32_t width, height;
    unsigned char *result; /* FRAMES results of width x height pixels */
} worker;

/* Draw frame `index`: a pattern, so that every thread works on the same frames. */
static void draw(unsigned char *pixels, int index)
{
    for (int i = 0; i < WIDTH * HEIGHT * 3; i++)
        pixels[i] = (unsigned char)(i * 7 + index * 31 + i / (WIDTH * 3) * 13);
}

static int upscale_frames(worker *self, const sr_upscaler *upscaler)
{
    unsigned char pixels[WIDTH * HEIGHT * 3];
    sr_image input = {pixels, sizeof pixels, WIDTH * 3, WIDTH, HEIGHT, SR_U8, SR_RGB, SR_HOST};
    sr_image output = {NULL, 0, 0, 0, 0, SR_U8, SR_RGB, SR_HOST};
    size_t frame;
    if (sr_output_size(upscaler, WIDTH, HEIGHT, &output.width, &output.height) != SR_OK)
        return 1;
    output.stride = 3 * (size_t)output.width;
    frame = output.bytes = output.stride * (size_t)output.height;
    if (!(self->result = malloc(FRAMES * frame)))
        return 1;
    for (int i = 0; i < FRAMES; i++) {
        sr_status status;
        draw(pixels, i);
        output.data = self->result + (size_t)i * frame;
        if (self->lock)
            pthread_mutex_lock(self->lock);
        status = sr_upscale(upscaler, &input, &output);
        if (self->lock)
            pthread_mutex_unlock(self->lock);
        if (status != SR_OK)
            return 1;
    }
    self->width = output.width;
    self->height = output.height;
    return 0;
}

static void *work(void *argument)
{
    worker *self = argument;
    sr_upscaler *upscaler = self->shared;
    if (!upscaler && sr_open(self->model, NULL, &upscaler) != SR_OK)
        self->failed = 1;
    if (!self->failed)
        self->failed = upscale_frames(self, upscaler);
    if (self->failed) /* the error text belongs to this thread, so it must be read here */
        fprintf(stderr, "thread %d: %s\n", self->number, sr_last_error(upscaler));
    if (!self->shared)
        sr_close(upscaler);
    return NULL;
}

/* Let eight workers upscale the same frames. Return whether all results equal *expected, which the first call sets. */
static int agree(const char *how, const char *model, sr_upscaler *shared, pthread_mutex_t *lock,
                 unsigned char **expected)
{
    worker workers[THREADS] = {0};
    int fine = 1;
    for (int i = 0; i < THREADS; i++) {
        workers[i].model = model;
        workers[i].shared = shared;
        workers[i].lock = lock;
        workers[i].number = i;
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i])) {
            perror("pthread_create");
            exit(1);
        }
    }
    for (int i = 0; i < THREADS; i++) {
        size_t bytes;
        pthread_join(workers[i].thread, NULL);
        bytes = FRAMES * 3 * (size_t)workers[i].width * (size_t)workers[i].height;
        if (!*expected && !workers[i].failed) {
            *expected = workers[i].result;
            continue;
        }
        fine = fine && !workers[i].failed && !memcmp(workers[i].result, *expected, bytes);
        free(workers[i].result);
    }
    printf("%s: %s\n", how, fine ? "the same" : "DIFFERENT");
    return fine;
}

int main(int count, char **arguments)
{
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    unsigned char *expected = NULL;
    sr_upscaler *shared;
    int fine;
    if (count != 2) {
        fprintf(stderr, "usage: %s MODEL\n", arguments[0]);
        return 2;
    }
    fine = agree("a handle for each thread", arguments[1], NULL, NULL, &expected);
    if (sr_open(arguments[1], NULL, &shared) != SR_OK) {
        fprintf(stderr, "%s\n", sr_last_error(NULL));
        return 1;
    }
    fine = agree("one handle behind a lock", arguments[1], shared, &lock, &expected) && fine;
    fine = agree("one handle without a lock", arguments[1], shared, NULL, &expected) && fine;
    sr_close(shared);
    free(expected);
    return fine ? 0 : 1;
}
