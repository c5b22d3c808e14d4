/* Upscale a picture: upscale_ppm MODEL IN.ppm OUT.ppm. Both files are binary PPM (P6) with 8 bits. */
#include <stdio.h>
#include <stdlib.h>

#include <sr_deploy.h>

static void *allocated(size_t size)
{
    void *memory = malloc(size);
    if (!memory) {
        fputs("out of memory\n", stderr);
        exit(5);
    }
    return memory;
}

static int failed(const sr_upscaler *upscaler)
{
    fprintf(stderr, "%s\n", sr_last_error(upscaler));
    return 1;
}

int main(int count, char **arguments)
{
    sr_upscaler *upscaler;
    sr_image input = {0}, output = {0}; /* zero means SR_U8, SR_RGB and SR_HOST */
    FILE *file;
    if (count != 4 || !(file = fopen(arguments[2], "rb"))) {
        fprintf(stderr, "usage: %s MODEL IN.ppm OUT.ppm\n", arguments[0]);
        return 2;
    }
    if (fscanf(file, "P6 %d %d 255", &input.width, &input.height) != 2 || fgetc(file) == EOF)
        return fprintf(stderr, "%s is not a binary PPM file with 8 bits\n", arguments[2]), 3;
    input.stride = 3 * (size_t)input.width;
    input.data = allocated(input.stride * input.height);
    if (fread(input.data, input.stride, input.height, file) != (size_t)input.height)
        return fprintf(stderr, "%s is cut short\n", arguments[2]), 3;
    fclose(file);

    if (sr_open(arguments[1], NULL, &upscaler) != SR_OK)
        return failed(NULL);
    if (sr_output_size(upscaler, input.width, input.height, &output.width, &output.height) != SR_OK)
        return failed(upscaler);
    output.stride = 3 * (size_t)output.width;
    output.data = allocated(output.stride * output.height);
    if (sr_upscale(upscaler, &input, &output) != SR_OK)
        return failed(upscaler);
    sr_close(upscaler);

    if (!(file = fopen(arguments[3], "wb")))
        return fprintf(stderr, "cannot write %s\n", arguments[3]), 3;
    fprintf(file, "P6\n%d %d\n255\n", output.width, output.height);
    fwrite(output.data, output.stride, output.height, file);
    free(input.data);
    free(output.data);
    return fclose(file) ? 3 : 0;
}
