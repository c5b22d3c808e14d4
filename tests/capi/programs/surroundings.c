/*
 * surroundings MODEL BACKEND MODE: what the library leaves as it was.
 *
 * signal: opens the model, upscales, and raises SIGINT, which must end the program as it does without the library.
 * floats: upscales with the default floating-point environment, and again with rounding down, FTZ and DAZ. Prints whether
 *         the results are the same, and whether the environment and its flags were left as they were.
 * fork:   forks after sr_open. The child prints the status of every function, and the parent upscales again.
 */
#include <fenv.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include <sr_deploy.h>

enum { WIDTH = 16, HEIGHT = 12 };

static float pixels[WIDTH * HEIGHT * 3], large[2][WIDTH * 2 * HEIGHT * 2 * 3];

static sr_status upscale(const sr_upscaler *upscaler, float *result)
{
    sr_image input = {pixels, sizeof pixels, sizeof(float) * WIDTH * 3, WIDTH, HEIGHT, SR_F32, SR_RGB, SR_HOST};
    sr_image output = {result, sizeof large[0], sizeof(float) * WIDTH * 6, WIDTH * 2, HEIGHT * 2, SR_F32, SR_RGB, SR_HOST};
    return sr_upscale(upscaler, &input, &output);
}

static void change_floats(void)
{
    fesetround(FE_DOWNWARD);
#if defined(__x86_64__)
    _mm_setcsr(_mm_getcsr() | 0x8040); /* flush to zero, and denormals are zero */
#endif
}

static unsigned control(void)
{
#if defined(__x86_64__)
    return _mm_getcsr();
#else
    return (unsigned)fegetround();
#endif
}

static int floats(const sr_upscaler *upscaler, const char *model, const sr_options *options)
{
    sr_upscaler *second = NULL;
    unsigned before, after;
    int failed = upscale(upscaler, large[0]) != SR_OK;
    change_floats();
    before = control();
    failed |= sr_open(model, options, &second) != SR_OK || upscale(second, large[1]) != SR_OK;
    failed |= sr_close(second) != SR_OK;
    after = control();
    printf("%s, %s\n", memcmp(large[0], large[1], sizeof large[0]) ? "different" : "the same",
           before == after ? "left as it was" : "changed");
    return failed;
}

static int in_child(sr_upscaler *upscaler, const char *model, const sr_options *options)
{
    sr_info info = SR_INFO_INIT;
    int32_t width, height;
    sr_upscaler *second;
    printf("%s ", sr_status_name(upscale(upscaler, large[1])));
    printf("%s ", sr_status_name(sr_query(upscaler, &info)));
    printf("%s ", sr_status_name(sr_output_size(upscaler, 1, 1, &width, &height)));
    printf("%s ", sr_status_name(sr_close(upscaler)));
    printf("%s\n", sr_status_name(sr_open(model, options, &second)));
    printf("%s\n", sr_last_error(NULL));
    return 0;
}

static int forks(sr_upscaler *upscaler, const char *model, const sr_options *options)
{
    int ended = 1;
    pid_t child;
    fflush(stdout);
    child = fork();
    if (child == 0) {
        in_child(upscaler, model, options);
        fflush(stdout);
        _exit(0);
    }
    waitpid(child, &ended, 0);
    printf("%s\n", sr_status_name(upscale(upscaler, large[1])));
    return ended;
}

int main(int count, char **values)
{
    sr_options options = SR_OPTIONS_INIT;
    sr_upscaler *upscaler = NULL;
    if (count < 4)
        return 2;
    options.backend = values[2];
    for (int i = 0; i < WIDTH * HEIGHT * 3; i++)
        pixels[i] = (float)(i % 97) / 97.0f;
    if (sr_open(values[1], &options, &upscaler) != SR_OK || upscale(upscaler, large[0]) != SR_OK) {
        fprintf(stderr, "%s\n", sr_last_error(upscaler));
        return 1;
    }
    if (!strcmp(values[3], "floats"))
        return floats(upscaler, values[1], &options);
    if (!strcmp(values[3], "fork"))
        return forks(upscaler, values[1], &options);
    printf("raising\n");
    fflush(stdout);
    raise(SIGINT);
    printf("still alive\n");
    return 0;
}
