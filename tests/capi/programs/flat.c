/*
 * flat MODEL BACKEND CALLS: make CALLS valid calls, every eighth with another depth and layout, as many wrong calls,
 * and open a hundredth as many handles. Prints the KiB by which the process grew after the first fifth.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <sr_deploy.h>

static unsigned char small[4096], large[16384];

static long resident(void)
{
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%*d %ld", &pages) != 1)
        exit(3);
    fclose(file);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

int main(int count, char **arguments)
{
    sr_upscaler *upscaler, *other;
    sr_options options = SR_OPTIONS_INIT;
    sr_info info = SR_INFO_INIT;
    int calls = count == 4 ? atoi(arguments[3]) : 0;
    long before = 0;
    options.backend = count == 4 ? arguments[2] : NULL;
    options.memory = 1 << 28; /* otherwise every call asks the system for its free memory */
    options.threads = 1;
    if (calls < 10 || sr_open(arguments[1], &options, &upscaler) != SR_OK)
        return 1;
    for (int i = 0; i < calls; i++) {
        int kind = i % 8 ? 0 : i / 8;
        sr_image input = {small, 0, 256, 8, 8, kind % 3, kind % 5, SR_HOST};
        sr_image output = {large, 0, 512, 16, 16, kind % 3, kind % 5, SR_HOST};
        if (i == calls / 5)
            before = resident();
        if (sr_upscale(upscaler, &input, &output) != SR_OK)
            return 1;
        output.width = 1;
        if (sr_upscale(upscaler, &input, &output) != SR_ERROR_ARGUMENT || !*sr_last_error(upscaler))
            return 1;
        if (i % 100 == 0 && (sr_open(arguments[1], &options, &other) || sr_query(other, &info) || sr_close(other)))
            return 1;
        if (i % 100 == 50 && (!sr_open("not/there.onnx", &options, &other) || sr_close(other)))
            return 1;
    }
    printf("%ld\n", resident() - before);
    return sr_close(upscaler);
}
