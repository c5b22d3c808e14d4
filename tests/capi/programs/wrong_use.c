/*
 * wrong_use MODEL: make every kind of wrong call. Prints a line for each: name, status and text, separated by tabs.
 * MODEL has scale 2 and accepts pictures of 4x4 pixels.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sr_deploy.h>

static unsigned char small[4096], large[8192];

static void tell(const char *name, sr_status status, const sr_upscaler *upscaler)
{
    printf("%s\t%s\t%s\n", name, sr_status_name(status), sr_last_error(upscaler));
}

/* A fixed backend, because some of the others do not load under the sanitizers. */
static sr_options usual(void)
{
    sr_options options = SR_OPTIONS_INIT;
    options.backend = "onnxruntime";
    return options;
}

static void open_wrongly(const char *model)
{
    sr_upscaler *upscaler = (sr_upscaler *)8;
    sr_options options = usual();
#define OPEN(name, field, value)                                                                                   \
    options.field = value;                                                                                         \
    tell(name, sr_open(model, &options, &upscaler), NULL);                                                         \
    options = usual()
    tell("open: no place for the handle", sr_open(model, NULL, NULL), NULL);
    tell("open: no model", sr_open(NULL, NULL, &upscaler), NULL);
    printf("open: the handle\t%s\t\n", upscaler ? "left as it was" : "NULL");
    tell("open: an empty model", sr_open("", &options, &upscaler), NULL);
    tell("open: a missing model", sr_open("not/there.onnx", &options, &upscaler), NULL);
    tell("open: an unknown name", sr_open("rt-x5", &options, &upscaler), NULL);
    tell("open: a folder", sr_open(".", &options, &upscaler), NULL);
    tell("open: no ONNX", sr_open("garbage.onnx", &options, &upscaler), NULL);
    tell("open: no UTF-8", sr_open("\xff\xfe.onnx", &options, &upscaler), NULL);
    OPEN("open: size 0", size, 0);
    OPEN("open: a short size", size, sizeof options - 4);
    OPEN("open: a huge size", size, (size_t)-1);
    OPEN("open: a newer header's size", size, sizeof options + 8);
    OPEN("open: reserved", reserved, 7);
    OPEN("open: an unknown backend", backend, "abacus");
    OPEN("open: a backend that is no text", backend, "\xff");
    OPEN("open: negative threads", threads, -1);
    OPEN("open: a negative tile", tile, -2);
    OPEN("open: a negative overlap", overlap, -2);
    tell("open: what is usual", sr_open(model, &options, &upscaler), NULL);
    tell("close: what is usual", sr_close(upscaler), upscaler);
}

static void upscale_wrongly(sr_upscaler *upscaler)
{
    const sr_image good_input = {small, 0, 16, 4, 4, SR_U8, SR_RGB, SR_HOST}, good_output = {large, 0, 24, 8, 8, SR_U8, SR_RGB, SR_HOST};
    sr_image input = good_input, output = good_output;
#define SAY(name)                                                                                                  \
    tell(name, sr_upscale(upscaler, &input, &output), upscaler);                                                   \
    input = good_input, output = good_output
#define UPSCALE(name, field, value)                                                                                \
    field = value;                                                                                                 \
    SAY(name)
    tell("upscale: no handle", sr_upscale(NULL, &input, &output), NULL);
    tell("upscale: no input", sr_upscale(upscaler, NULL, &output), upscaler);
    tell("upscale: no output", sr_upscale(upscaler, &input, NULL), upscaler);
    UPSCALE("upscale: an input without data", input.data, NULL);
    UPSCALE("upscale: an output without data", output.data, NULL);
    UPSCALE("upscale: no columns", input.width, 0);
    UPSCALE("upscale: a negative height", input.height, -4);
    UPSCALE("upscale: a negative output", output.width, -8);
    UPSCALE("upscale: an unknown depth", input.depth, 3);
    UPSCALE("upscale: a negative depth", input.depth, -1);
    UPSCALE("upscale: an unknown layout", output.layout, 5);
    UPSCALE("upscale: a negative layout", output.layout, INT32_MIN);
    UPSCALE("upscale: a short stride", input.stride, 11);
    UPSCALE("upscale: a short stride of the output", output.stride, 23);
    UPSCALE("upscale: no stride", input.stride, 0);
    UPSCALE("upscale: a huge stride", input.stride, (size_t)-1);
    input.width = input.height = INT32_MAX, input.stride = 3 * (size_t)INT32_MAX;
    SAY("upscale: a huge input");
    input.width = INT32_MAX, input.height = 1, input.stride = 3 * (size_t)INT32_MAX;
    SAY("upscale: an input too wide to grow");
    UPSCALE("upscale: a huge stride of two rows", input.stride, (size_t)1 << 61);
    UPSCALE("upscale: an unknown memory", output.memory, 2);
    UPSCALE("upscale: memory of both kinds", input.memory, SR_CUDA);
    input.memory = output.memory = SR_CUDA;
    SAY("upscale: memory of a GPU");
    UPSCALE("upscale: an input beyond its buffer", input.bytes, 59);
    UPSCALE("upscale: an output beyond its buffer", output.bytes, 191);
    input.bytes = 60, output.bytes = 192;
    SAY("upscale: buffers that just fit");
    UPSCALE("upscale: another size", output.width, 7);
    output.depth = SR_F32, output.stride = 96;
    SAY("upscale: another depth");
    UPSCALE("upscale: another layout", output.layout, SR_BGR);
    input.depth = output.depth = SR_U16, input.stride = 24, output.stride = 48, input.data = small + 1;
    SAY("upscale: unaligned data");
    input.depth = output.depth = SR_F32, input.stride = 50, output.stride = 96;
    SAY("upscale: unaligned rows");
    UPSCALE("upscale: the same memory", output.data, small);
    UPSCALE("upscale: memory that overlaps", output.data, small + 59);
    tell("upscale: memory side by side", sr_upscale(upscaler, &input, &(sr_image){small + 60, 0, 24, 8, 8, SR_U8, SR_RGB, SR_HOST}),
         upscaler);
    input.stride = 36, output.stride = 36, output.data = small + 12;
    SAY("upscale: rows side by side");
    input.stride = 35, output.stride = 35, output.data = small + 11;
    SAY("upscale: rows that share a byte");
}

static void batch_wrongly(sr_upscaler *upscaler)
{
    sr_image inputs[2] = {{small, 0, 12, 4, 4, SR_U8, SR_RGB, SR_HOST}, {small + 48, 0, 12, 4, 4, SR_U8, SR_RGB, SR_HOST}};
    sr_image outputs[2] = {{large, 0, 24, 8, 8, SR_U8, SR_RGB, SR_HOST}, {large + 191, 0, 24, 8, 8, SR_U8, SR_RGB, SR_HOST}};
    tell("batch: none", sr_upscale_batch(upscaler, NULL, NULL, 0), upscaler);
    tell("batch: no inputs", sr_upscale_batch(upscaler, NULL, outputs, 2), upscaler);
    tell("batch: no outputs", sr_upscale_batch(upscaler, inputs, NULL, 2), upscaler);
    tell("batch: too many", sr_upscale_batch(upscaler, inputs, outputs, (size_t)-1), upscaler);
    tell("batch: outputs that overlap", sr_upscale_batch(upscaler, inputs, outputs, 2), upscaler);
    outputs[1].data = small;
    tell("batch: an output over the input before", sr_upscale_batch(upscaler, inputs, outputs, 2), upscaler);
    outputs[1].data = large + 192;
    inputs[1].stride = 3;
    memset(large, 171, sizeof large);
    tell("batch: the second is wrong", sr_upscale_batch(upscaler, inputs, outputs, 2), upscaler);
    printf("batch: the first then\t%s\t\n", large[0] == 171 ? "untouched" : "written");
    inputs[1] = inputs[0];
    tell("batch: the same input twice", sr_upscale_batch(upscaler, inputs, outputs, 2), upscaler);
}

static void frames_wrongly(sr_upscaler *upscaler)
{
    const sr_frame good_input = {"nv12", {small, small + 16}, {16, 8}, {4, 4}, 4, 4, 1, 0, 0, 0};
    const sr_frame good_output = {"nv12", {large, large + 64}, {64, 32}, {8, 8}, 8, 8, 1, 0, 0, 0};
    sr_frame input = good_input, output = good_output;
#define FRAME(name, change)                                                                                        \
    change;                                                                                                        \
    tell("frame: " name, sr_upscale_frame(upscaler, &input, &output), upscaler);                                   \
    input = good_input, output = good_output
    tell("frame: no handle", sr_upscale_frame(NULL, &input, &output), NULL);
    tell("frame: no input", sr_upscale_frame(upscaler, NULL, &output), upscaler);
    tell("frame: no output", sr_upscale_frame(upscaler, &input, NULL), upscaler);
    FRAME("no format", input.format = NULL);
    FRAME("an unknown format", input.format = "nv13");
    FRAME("a format that is no text", input.format = "\xff");
    FRAME("no planes", input.planes[0] = NULL);
    FRAME("a plane too few", output.planes[1] = NULL);
    FRAME("no columns", input.width = 0);
    FRAME("a negative height", output.height = -8);
    FRAME("reserved", input.reserved = 1);
    FRAME("a huge plane", input.bytes[1] = (size_t)-1);
    FRAME("a huge stride", input.strides[0] = (size_t)-4);
    FRAME("a plane too small", output.bytes[1] = 31);
    FRAME("a short stride", input.strides[1] = 3);
    FRAME("an unknown matrix", input.matrix = 99);
    FRAME("an unknown range", input.range = -1);
    FRAME("a wrong size", output.width = 7);
    FRAME("what is usual", (void)0);
}

static void ask_wrongly(sr_upscaler *upscaler)
{
    sr_info info = SR_INFO_INIT;
    int32_t width = 0, height = 0;
    tell("query: no handle", sr_query(NULL, &info), NULL);
    tell("query: no info", sr_query(upscaler, NULL), upscaler);
    info.size = 8;
    tell("query: a short size", sr_query(upscaler, &info), upscaler);
    info.size = sizeof info + 8;
    tell("query: a newer header's size", sr_query(upscaler, &info), upscaler);
    info.size = (size_t)-1;
    tell("query: a huge size", sr_query(upscaler, &info), upscaler);
    tell("size: no handle", sr_output_size(NULL, 4, 4, &width, &height), NULL);
    tell("size: no width", sr_output_size(upscaler, 4, 4, NULL, &height), upscaler);
    tell("size: no height", sr_output_size(upscaler, 4, 4, &width, NULL), upscaler);
    tell("size: a negative one", sr_output_size(upscaler, -4, 4, &width, &height), upscaler);
    tell("size: one too large", sr_output_size(upscaler, 4, 1 << 30, &width, &height), upscaler);
    printf("status: an unknown one\t%s\t\n", sr_status_name((sr_status)12345));
}

static void use_closed(sr_upscaler *upscaler)
{
    sr_image input = {small, 0, 12, 4, 4, SR_U8, SR_RGB, SR_HOST}, output = {large, 0, 24, 8, 8, SR_U8, SR_RGB, SR_HOST};
    sr_info info = SR_INFO_INIT;
    int32_t width, height;
    tell("close: nothing", sr_close(NULL), NULL);
    tell("close: a handle", sr_close(upscaler), upscaler);
    tell("close: a handle twice", sr_close(upscaler), upscaler);
    tell("closed: upscale", sr_upscale(upscaler, &input, &output), upscaler);
    tell("closed: query", sr_query(upscaler, &info), upscaler);
    tell("closed: size", sr_output_size(upscaler, 4, 4, &width, &height), upscaler);
    tell("closed: garbage", sr_upscale((sr_upscaler *)small, &input, &output), (sr_upscaler *)small);
}

int main(int count, char **arguments)
{
    sr_options options = usual();
    sr_upscaler *upscaler, *other;
    sr_image input = {small, 0, 12, 4, 4, SR_U8, SR_RGB, SR_HOST}, output = {large, 0, 24, 8, 8, SR_U8, SR_RGB, SR_HOST};
    if (count != 2)
        return 2;
    tell("before: nothing", SR_OK, NULL);
    tell("before: close", sr_close((sr_upscaler *)16), (sr_upscaler *)16);
    tell("before: upscale", sr_upscale((sr_upscaler *)16, &input, &output), (sr_upscaler *)16);
    open_wrongly(arguments[1]);
    if (sr_open(arguments[1], &options, &upscaler) || sr_open(arguments[1], &options, &other))
        return 1;
    upscale_wrongly(upscaler);
    tell("error: of another handle", SR_OK, other);
    sr_upscale(upscaler, &input, NULL);
    sr_upscale(other, NULL, &output);
    tell("error: of the first", SR_OK, upscaler);
    tell("error: of the second", SR_OK, other);
    tell("right again", sr_upscale(upscaler, &input, &output), upscaler);
    batch_wrongly(upscaler);
    frames_wrongly(upscaler);
    ask_wrongly(upscaler);
    sr_close(other);
    use_closed(upscaler);
    return 0;
}
