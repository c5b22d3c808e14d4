/*
 * sr_deploy.h: super-resolution networks for programs in C (C11) and C++ (C++17).
 *
 * THREADS. Any thread may call any function. Handles are independent of each other. Several threads may use one handle
 * at once without a lock, because it stores nothing between two calls. The text of sr_last_error belongs to one handle
 * and one thread; it is valid until that thread's next call of this library. A handle may be closed while other threads
 * use it: calls that have begun end normally, and later calls return SR_ERROR_CLOSED.
 * The first sr_open of a process starts a Python interpreter in it, which runs until the process ends. Open a handle
 * before your own threads read or change the environment, and give threads that call this library at least 512 KiB of
 * stack. The interpreter's lock is not held while a picture is computed. In a child of a fork after the first sr_open,
 * every function returns SR_ERROR_RUNTIME. The handling of SIGINT and the floating-point environment of the calling thread
 * stay as they were, and results do not depend on them.
 *
 * MEMORY. The caller owns every buffer and passes its size and the length of its rows. The library keeps no reference
 * to a buffer after a call. SR_RGB and SR_GREY pixels of SR_U8 and SR_F32 are read and written in place if rows have no
 * gaps; all other pixels are copied once on input and once on output. Inputs and outputs of a call must not share a
 * byte of a pixel.
 *
 * ERRORS. Every call returns a status. If it is not SR_OK, sr_last_error returns one sentence that says what was asked,
 * what was found, and what to do. A call that fails after its arguments were checked may have written part of the
 * output. The library prints nothing and installs no signal handlers. No wrong argument ends the process, except a
 * pointer to fewer bytes than were stated.
 *
 * RESULTS are the same bytes as those of the Python API and of `sr-deploy upscale`, tiles included.
 *
 *     sr_options options = SR_OPTIONS_INIT;
 *     sr_upscaler *upscaler;
 *     if (sr_open("rt-x4", &options, &upscaler) != SR_OK)
 *         return fprintf(stderr, "%s\n", sr_last_error(NULL)), 1;
 *     sr_image input = {pixels, sizeof pixels, 320 * 3, 320, 180, SR_U8, SR_RGB, SR_HOST};
 *     sr_image output = {result, sizeof result, 1280 * 3, 1280, 720, SR_U8, SR_RGB, SR_HOST};
 *     if (sr_upscale(upscaler, &input, &output) != SR_OK)
 *         fprintf(stderr, "%s\n", sr_last_error(upscaler));
 *     sr_close(upscaler);
 */
#ifndef SR_DEPLOY_H
#define SR_DEPLOY_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#ifdef SR_DEPLOY_BUILD
#define SR_API __declspec(dllexport)
#else
#define SR_API __declspec(dllimport)
#endif
#else
#define SR_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Result of a call. The numbers are the exit codes of the sr-deploy command. */
typedef enum sr_status {
    SR_OK = 0,
    SR_ERROR_ARGUMENT = 2, /* an argument is invalid, or the model cannot serve it */
    SR_ERROR_MODEL = 3,    /* the model file cannot be used */
    SR_ERROR_RUNTIME = 4,  /* something is not installed: Python, a package, a device */
    SR_ERROR_MEMORY = 5,   /* there is not enough memory */
    SR_ERROR_CLOSED = 6,   /* the handle was closed, or did not come from sr_open */
    SR_ERROR_INTERNAL = 70 /* a bug in sr-deploy */
} sr_status;

/* Type of one channel's value. */
enum {
    SR_U8 = 0,  /* 0..255 */
    SR_U16 = 1, /* 0..65535, in the machine's byte order */
    SR_F32 = 2  /* 0..1; results are clipped to this range */
};

/* Channels of a pixel, in the order of memory. A fourth channel is opacity, not premultiplied into the colours; it is
 * enlarged by bicubic interpolation and not by the model. */
enum { SR_RGB = 0, SR_BGR = 1, SR_GREY = 2, SR_RGBA = 3, SR_BGRA = 4 };

/* Memory that holds a picture. SR_CUDA is memory of the GPU on which the model was opened, for the backend tensorrt.
 * Such pictures must be SR_RGB or SR_GREY as the model's channels require, and SR_U8 or SR_F32. Their rows must have no
 * gaps, and they must not be larger than max_width x max_height of sr_info. */
enum { SR_HOST = 0, SR_CUDA = 1 };

/* A picture in the caller's memory: rows from top to bottom, channels interleaved. This struct will never grow. */
typedef struct sr_image {
    void *data;     /* address of the first row, aligned to the size of a value. An input is never written */
    size_t bytes;   /* size of the buffer at data, against which the other fields are checked; 0: unknown, and nothing
                       is checked. A wrong size is then as dangerous as a wrong pointer */
    size_t stride;  /* bytes from one row to the next: a multiple of the size of a value, at least one row long */
    int32_t width;  /* in pixels */
    int32_t height; /* in pixels */
    int32_t depth;  /* SR_U8, SR_U16 or SR_F32 */
    int32_t layout; /* SR_RGB, SR_BGR, SR_GREY, SR_RGBA or SR_BGRA */
    int32_t memory; /* SR_HOST or SR_CUDA */
} sr_image;

/* Range of the values of a frame. */
enum {
    SR_RANGE_USUAL = 0,   /* full for RGB and grey, limited for YUV */
    SR_RANGE_LIMITED = 1, /* 8-bit black is 16 and white is 235; deeper frames in proportion. Not for RGB */
    SR_RANGE_FULL = 2     /* 0 and 255 */
};

/* Position of the chroma samples of 4:2:0 and 4:2:2. */
enum {
    SR_CHROMA_LEFT = 0,    /* on the left column, between two rows (MPEG-2, H.264) */
    SR_CHROMA_CENTER = 1,  /* in the middle of its pixels (JPEG, MPEG-1) */
    SR_CHROMA_TOP_LEFT = 2 /* on the top left pixel (BT.2020) */
};

enum { SR_FRAME_PLANES = 4 };

/* A video frame in the caller's memory, in planes whose rows may have gaps. This struct will never grow. */
typedef struct sr_frame {
    const char *format;              /* name of the format, as `sr-deploy pipe --format` takes it, such as "yuv420p",
                                        "nv12", "p010le" or "rgb24"; 16-bit values are aligned to 2 bytes */
    void *planes[SR_FRAME_PLANES];   /* address of the first row of each plane; NULL after the last. An input is never
                                        written */
    size_t bytes[SR_FRAME_PLANES];   /* size of the memory at each address; checked against the size of the frame */
    size_t strides[SR_FRAME_PLANES]; /* bytes from one row of a plane to the next */
    int32_t width;                   /* in pixels */
    int32_t height;                  /* in pixels */
    int32_t matrix;   /* YUV matrix: a number of ITU-T H.273, such as 1 (BT.709), 6 (BT.601) or 9 (BT.2020). 0 or 2: not
                         known, which means BT.601 for inputs of up to 576 rows and less than 1280 columns, else BT.709 */
    int32_t range;    /* SR_RANGE_USUAL, SR_RANGE_LIMITED or SR_RANGE_FULL */
    int32_t siting;   /* SR_CHROMA_LEFT, SR_CHROMA_CENTER or SR_CHROMA_TOP_LEFT */
    int32_t reserved; /* must be 0 */
} sr_frame;

/* Options for opening a model. Zero is the default of every field. Later versions add fields at the end and recognise
 * an older struct by its size, so a program that was compiled with an older header keeps working. */
typedef struct sr_options {
    size_t size;         /* sizeof(sr_options), as SR_OPTIONS_INIT sets it */
    const char *backend; /* a name that `sr-deploy doctor` lists, such as "onnxruntime"; NULL: the best available */
    void (*notify)(void *context, const char *text); /* gets messages for the user, one line each, for example that less
                            memory was free than planned. It is called during a call, possibly by several threads at
                            once. The text is valid until notify returns. NULL: no messages */
    void *context;       /* passed to notify */
    void *cuda_stream;   /* a CUstream or cudaStream_t for pictures in SR_CUDA. A call waits for earlier work in the
                            stream, and later work in it waits for the call, which may return before its result is
                            ready. NULL: the input must be ready when a call begins, and the result is ready when it
                            returns */
    uint64_t memory;     /* bytes of working memory for which tiles are planned; 0: 1 GiB, or a quarter of the free
                            memory if that is less */
    int32_t threads;     /* threads that one call computes with; 0: as many as the process has cores */
    int32_t tile;        /* side of a tile in input pixels; 0: tiles only for pictures that do not fit into memory */
    int32_t overlap;     /* input pixels read around a tile; 0: the model's halo, with which no seams are visible */
    int32_t reserved;    /* must be 0 */
} sr_options;

/* Values of tile and overlap: never tile, and read no pixels around a tile. */

#define SR_TILE_NEVER (-1)
#define SR_OVERLAP_NONE (-1)

#ifdef __cplusplus
#define SR_OPTIONS_INIT {sizeof(sr_options), nullptr, nullptr, nullptr, nullptr, 0, 0, 0, 0, 0}
#define SR_INFO_INIT {sizeof(sr_info), 0, 0, 0, 0, 0, 0, {0}, {0}}
#else
#define SR_OPTIONS_INIT {sizeof(sr_options), NULL, NULL, NULL, NULL, 0, 0, 0, 0, 0}
#define SR_INFO_INIT {sizeof(sr_info), 0, 0, 0, 0, 0, 0, {0}, {0}}
#endif

/* Facts about an open model. */
typedef struct sr_info {
    size_t size;        /* sizeof(sr_info), set by the caller */
    int32_t scale;      /* enlargement along each axis */
    int32_t channels;   /* channels of the model: 3 or 1. Pictures with either number are accepted */
    int32_t halo;       /* input pixels around a pixel that its result depends on; SR_HALO_GLOBAL: the whole picture,
                           and pictures are tiled only if sr_options.tile asks for it */
    int32_t max_width;  /* largest width that the engine computes at once, in pixels; 0: no limit. Larger pictures are
                           tiled */
    int32_t max_height; /* largest height likewise */
    int32_t max_batch;  /* largest number of pictures that the engine computes at once; 0: no limit */
    char backend[32];   /* name of the backend, such as "onnxruntime" */
    char model[128];    /* name of the model, cut if it is longer */
} sr_info;

#define SR_HALO_GLOBAL (-1)

/* An open model. The type is opaque and does not point to memory, so using a closed handle is an ordinary error. */
typedef struct sr_upscaler sr_upscaler;

/* Return the version of the library, such as "0.1.0". The text is valid for ever. */
SR_API const char *sr_version(void);

/* Return the name of a status, such as "SR_ERROR_MODEL". The text is valid for ever. */
SR_API const char *sr_status_name(sr_status status);

/* Open a model: the UTF-8 path of an .onnx file or an engine file, or the name of a bundled model, such as "rt-x4".
 * `options` may be NULL. On failure *opened is NULL, and sr_last_error(NULL) gives the reason. */
SR_API sr_status sr_open(const char *model, const sr_options *options, sr_upscaler **opened);

/* Write the facts about the model to *info. info->size must be set. */
SR_API sr_status sr_query(const sr_upscaler *upscaler, sr_info *info);

/* Write the size of the result for a picture of `width` x `height` pixels. */
SR_API sr_status sr_output_size(const sr_upscaler *upscaler, int32_t width, int32_t height, int32_t *output_width,
                                int32_t *output_height);

/* Upscale one picture. `output` must have the size that sr_output_size gives, and the depth and layout of `input`. */
SR_API sr_status sr_upscale(const sr_upscaler *upscaler, const sr_image *input, const sr_image *output);

/* Upscale `count` pictures of any sizes, inputs[i] to outputs[i], in this order. The results are those of separate
 * calls of sr_upscale. All pictures are checked before the first is computed. A count of 0 is allowed. */
SR_API sr_status sr_upscale_batch(const sr_upscaler *upscaler, const sr_image *inputs, const sr_image *outputs,
                                  size_t count);

/* Upscale one video frame. `output` must have the size that sr_output_size gives and the format of `input`, and gets the
 * colours of `input`: its own matrix, range and siting are not read. Frames of 8-bit RGB and grey give the bytes of
 * sr_upscale, YUV gives those of `sr-deploy pipe`. 8-bit "rgb24" and full-range "gray8" are read and written in place if
 * rows have no gaps. */
SR_API sr_status sr_upscale_frame(const sr_upscaler *upscaler, const sr_frame *input, const sr_frame *output);

/* Return the error text of this thread's last call with this handle, in UTF-8; "" if the call succeeded. NULL as handle
 * means the thread's last sr_open or call without a handle. Each thread keeps the texts of the last 16 handles that
 * failed. Never returns NULL. */
SR_API const char *sr_last_error(const sr_upscaler *upscaler);

/* Close a handle and free the model. NULL is allowed; closing a handle twice returns SR_ERROR_CLOSED. */
SR_API sr_status sr_close(sr_upscaler *upscaler);

#ifdef __cplusplus
}
#endif

#endif /* SR_DEPLOY_H */
