/*
 * calls MODEL BACKEND TILE OVERLAP MEMORY each|batch < pictures
 *
 * Upscales the picture on each line of stdin, with one call for each or one call for all:
 *     WIDTH HEIGHT DEPTH LAYOUT STRIDE LARGE_STRIDE IN OUT
 * The file IN holds the buffer with all gaps between rows but not the one after the last row. The result is written to
 * OUT in the same form, with every byte of a gap 171. Prints the values of sr_query and every note.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sr_deploy.h>

enum { MOST = 64 };

static void die(const char *what)
{
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static size_t bytes(const sr_image *image)
{
    static const size_t values[] = {1, 2, 4}, channels[] = {3, 3, 1, 4, 4};
    return image->stride * (image->height - 1) + image->width * channels[image->layout] * values[image->depth];
}

static void *allocated(const sr_image *image)
{
    void *memory = malloc(bytes(image)); /* exactly the size, so a sanitizer notices any access beyond it */
    if (!memory)
        die("out of memory");
    return memset(memory, 171, bytes(image));
}

static void notify(void *context, const char *text)
{
    ++*(int *)context;
    printf("note: %s\n", text);
}

static int read_pictures(const sr_upscaler *upscaler, sr_image *inputs, sr_image *outputs, char (*names)[256])
{
    int count = 0;
    char in[256];
    sr_image *input = inputs, *output = outputs;
    while (count < MOST && scanf("%d %d %d %d %zu %zu %255s %255s", &input->width, &input->height, &input->depth,
                                 &input->layout, &input->stride, &output->stride, in, names[count]) == 8) {
        FILE *file = fopen(in, "rb");
        input->data = allocated(input);
        input->bytes = bytes(input);
        if (!file || fread(input->data, 1, bytes(input), file) != bytes(input))
            die(in);
        fclose(file);
        output->depth = input->depth;
        output->layout = input->layout;
        if (sr_output_size(upscaler, input->width, input->height, &output->width, &output->height))
            die(sr_last_error(upscaler));
        output->data = allocated(output);
        output->bytes = bytes(output);
        input++, output++, count++;
    }
    return count;
}

static void write_picture(const sr_image *image, const char *name)
{
    FILE *file = fopen(name, "wb");
    if (!file || fwrite(image->data, 1, bytes(image), file) != bytes(image) || fclose(file))
        die(name);
}

int main(int count, char **arguments)
{
    static sr_image inputs[MOST], outputs[MOST];
    static char names[MOST][256];
    sr_options options = SR_OPTIONS_INIT;
    sr_info info = SR_INFO_INIT;
    sr_upscaler *upscaler;
    int notes = 0, pictures;
    if (count != 7)
        die("six arguments are needed");
    options.backend = arguments[2];
    options.tile = atoi(arguments[3]);
    options.overlap = atoi(arguments[4]);
    options.memory = strtoull(arguments[5], NULL, 10);
    options.threads = 1;
    options.notify = notify;
    options.context = &notes;
    if (sr_open(arguments[1], &options, &upscaler))
        die(sr_last_error(NULL));
    if (sr_query(upscaler, &info))
        die(sr_last_error(upscaler));
    printf("scale %d channels %d halo %d most %dx%dx%d backend %s model %s version %s\n", info.scale, info.channels,
           info.halo, info.max_width, info.max_height, info.max_batch, info.backend, info.model, sr_version());
    pictures = read_pictures(upscaler, inputs, outputs, names);
    if (!strcmp(arguments[6], "batch")) {
        if (sr_upscale_batch(upscaler, inputs, outputs, pictures))
            die(sr_last_error(upscaler));
    } else {
        for (int i = 0; i < pictures; i++)
            if (sr_upscale(upscaler, &inputs[i], &outputs[i]))
                die(sr_last_error(upscaler));
    }
    for (int i = 0; i < pictures; i++) {
        write_picture(&outputs[i], names[i]);
        free(inputs[i].data);
        free(outputs[i].data);
    }
    if (*sr_last_error(upscaler))
        die("an error is left");
    if (sr_close(upscaler))
        die("it does not close");
    printf("%d pictures, %d notes\n", pictures, notes);
    return 0;
}
