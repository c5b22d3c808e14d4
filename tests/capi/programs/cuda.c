/*
 * cuda MODEL WIDTH HEIGHT: upscale the SR_U8 SR_RGB bytes on stdin three times: with pictures in main memory, with both
 * pictures on the GPU, and with both on the GPU in the order of a stream. Writes the three results to stdout. CUDA's
 * driver is loaded with dlopen, so the program compiles without CUDA's headers.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sr_deploy.h>

typedef unsigned long long address;

static void *driver;

static void check(int code, const char *what)
{
    if (code) {
        fprintf(stderr, "%s: error %d of CUDA\n", what, code);
        exit(1);
    }
}

static void must(sr_status status, const sr_upscaler *upscaler)
{
    if (status != SR_OK) {
        fprintf(stderr, "%s: %s\n", sr_status_name(status), sr_last_error(upscaler));
        exit(1);
    }
}

/* Load a function of CUDA's driver into a function pointer. */
static void load(void *function, const char *name)
{
    void *found = driver ? dlsym(driver, name) : NULL;
    check(!found, name);
    memcpy(function, &found, sizeof found);
}

static int (*allocate)(address *, size_t);
static int (*to_gpu)(address, const void *, size_t);
static int (*from_gpu)(void *, address, size_t);
static int (*create_stream)(void **, unsigned);
static int (*wait_for)(void *);

static void start_cuda(void)
{
    int (*initialise)(unsigned), (*device)(int *, int), (*retain)(void **, int), (*use)(void *);
    int number;
    void *context;
    driver = dlopen("libcuda.so.1", RTLD_NOW);
    load(&initialise, "cuInit");
    load(&device, "cuDeviceGet");
    load(&retain, "cuDevicePrimaryCtxRetain");
    load(&use, "cuCtxSetCurrent");
    load(&allocate, "cuMemAlloc_v2");
    load(&to_gpu, "cuMemcpyHtoD_v2");
    load(&from_gpu, "cuMemcpyDtoH_v2");
    load(&create_stream, "cuStreamCreate");
    load(&wait_for, "cuStreamSynchronize");
    check(initialise(0), "cuInit");
    check(device(&number, 0), "cuDeviceGet");
    check(retain(&context, number), "cuDevicePrimaryCtxRetain");
    check(use(context), "cuCtxSetCurrent");
}

static void upscale_on_gpu(const char *model, sr_image input, sr_image output, void *stream)
{
    sr_options options = SR_OPTIONS_INIT;
    sr_upscaler *upscaler;
    address small, large;
    size_t taken = input.stride * (size_t)input.height, given = output.stride * (size_t)output.height;
    options.backend = "tensorrt";
    options.cuda_stream = stream;
    must(sr_open(model, &options, &upscaler), NULL);
    check(allocate(&small, taken), "cuMemAlloc");
    check(allocate(&large, given), "cuMemAlloc");
    check(to_gpu(small, input.data, taken), "cuMemcpyHtoD");
    memset(output.data, 0, given);
    void *host = output.data;
    input.data = (void *)(uintptr_t)small;
    output.data = (void *)(uintptr_t)large;
    input.memory = output.memory = SR_CUDA;
    must(sr_upscale(upscaler, &input, &output), upscaler);
    if (stream)
        check(wait_for(stream), "cuStreamSynchronize");
    check(from_gpu(host, large, given), "cuMemcpyDtoH");
    fwrite(host, 1, given, stdout);
    must(sr_close(upscaler), upscaler);
}

int main(int count, char **arguments)
{
    sr_options options = SR_OPTIONS_INIT;
    sr_image input = {NULL, 0, 0, 0, 0, SR_U8, SR_RGB, SR_HOST}, output = input;
    sr_upscaler *upscaler;
    void *stream;
    if (count != 4)
        return 2;
    input.width = atoi(arguments[2]);
    input.height = atoi(arguments[3]);
    input.stride = 3 * (size_t)input.width;
    input.data = malloc(input.stride * (size_t)input.height);
    if (fread(input.data, input.stride, (size_t)input.height, stdin) != (size_t)input.height)
        return 2;
    options.backend = "tensorrt";
    must(sr_open(arguments[1], &options, &upscaler), NULL);
    must(sr_output_size(upscaler, input.width, input.height, &output.width, &output.height), upscaler);
    output.stride = 3 * (size_t)output.width;
    output.data = malloc(output.stride * (size_t)output.height);
    must(sr_upscale(upscaler, &input, &output), upscaler);
    fwrite(output.data, output.stride, (size_t)output.height, stdout);
    start_cuda();
    upscale_on_gpu(arguments[1], input, output, NULL);
    check(create_stream(&stream, 1), "cuStreamCreate");
    upscale_on_gpu(arguments[1], input, output, stream);
    return sr_close(upscaler) ? 1 : 0;
}
