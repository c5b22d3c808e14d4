/*
 * sr_deploy.h: super-resolution networks for programs in C (C11) and C++ (C++17).
 *
 * THREADS. Any thread may call any function. Handles are independent of each other, and one handle may be used by
 * several threads at once, without a lock: nothing is kept in it between two calls. What sr_last_error tells belongs
 * to one handle and to the thread that asks, and lives until that thread's next call of this library. A handle may be
 * closed while other threads still use it: what has begun ends well, and what comes later gets SR_ERROR_CLOSED.
 * The first sr_open of a process starts a Python interpreter inside it, which stays until the process ends: open a
 * handle before threads of your own read or change the environment, do not fork after it, and give threads that call
 * this library 512 KiB of stack or more. The interpreter's lock is not held while a picture is computed.
 *
 * MEMORY. The caller owns every buffer and gives it with its size and the length of its rows; nothing is kept of it
 * when a call returns. SR_RGB and SR_GREY of SR_U8 and SR_F32 are read and written where they lie if their rows have no
 * gaps; everything else is copied once on its way in and once on its way out. Inputs and outputs of a call may not share
 * a byte of a pixel.
 *
 * ERRORS. Every call gives a status, and where it is not SR_OK, sr_last_error says in one sentence what was asked,
 * what was found, and what to do. A call that fails after its arguments were checked may have written part of the
 * output. Nothing is printed, no signal handler is installed, and no wrong argument ends the process, other than a
 * pointer that does not lead to as many bytes as were said.
 *
 * RESULTS are the bytes that the Python API and `sr-deploy upscale` give, tiles included.
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

/* What a call came to. The numbers are those that sr-deploy's command line exits with. */
typedef enum sr_status {
    SR_OK = 0,
    SR_ERROR_ARGUMENT = 2, /* an argument that makes no sense, or that the model cannot serve */
    SR_ERROR_MODEL = 3,    /* a model file that cannot be used */
    SR_ERROR_RUNTIME = 4,  /* something that has to be installed is not there: Python, a package, a device */
    SR_ERROR_MEMORY = 5,   /* the work does not fit into memory */
    SR_ERROR_CLOSED = 6,   /* the handle was closed, or never came from sr_open */
    SR_ERROR_INTERNAL = 70 /* a bug of sr-deploy */
} sr_status;

/* One value of a channel. */
enum {
    SR_U8 = 0,  /* 0..255 */
    SR_U16 = 1, /* 0..65535, in the machine's byte order */
    SR_F32 = 2  /* 0..1; the result is clipped to it */
};

/* The channels of a pixel, in the order in which they lie in memory. The fourth is opacity, not multiplied into the
 * colours: it is enlarged by bicubic interpolation, not by the net. */
enum { SR_RGB = 0, SR_BGR = 1, SR_GREY = 2, SR_RGBA = 3, SR_BGRA = 4 };

/* Where a picture lies. SR_CUDA: on the GPU that the model was opened on, for the backend tensorrt: SR_RGB or SR_GREY as
 * the net has it, SR_U8 or SR_F32, rows without gaps, and not larger than one piece of work (sr_info). */
enum { SR_HOST = 0, SR_CUDA = 1 };

/* A picture in the caller's memory, rows from top to bottom, channels interleaved. This struct will never grow. */
typedef struct sr_image {
    void *data;     /* the first row; a multiple of the size of a channel's value. Never written where it is an input */
    size_t bytes;   /* that lie at data, to check what follows against; 0: trust it. A wrong size then is as wrong as a
                       wrong pointer */
    size_t stride;  /* bytes from one row to the next; such a multiple too, and at least as long as a row */
    int32_t width;  /* pixels */
    int32_t height; /* pixels */
    int32_t depth;  /* SR_U8, SR_U16 or SR_F32 */
    int32_t layout; /* SR_RGB, SR_BGR, SR_GREY, SR_RGBA or SR_BGRA */
    int32_t memory; /* SR_HOST or SR_CUDA */
} sr_image;

/* How a model is opened. Zero means the default everywhere. Later versions add fields at the end, and tell by the size
 * which ones a program knows: one that was compiled with an older header goes on working. */
typedef struct sr_options {
    size_t size;         /* sizeof(sr_options), as SR_OPTIONS_INIT has it */
    const char *backend; /* as `sr-deploy doctor` names them, such as "onnxruntime"; NULL: the best that is there */
    void (*notify)(void *context, const char *text); /* gets what the user may want to know, one line each, such as
                            that less memory was left than planned; called while a call goes on, by several threads
                            at once where several use the handle. The text ends with notify. NULL: unsaid */
    void *context;       /* handed to notify */
    void *cuda_stream;   /* a CUstream or cudaStream_t, for pictures in SR_CUDA: a call waits for what is queued there, and
                            what is queued there later waits for the call, which itself may return before its result is
                            there. NULL: the input has to be there when a call begins, and the result is when it ends */
    uint64_t memory;     /* bytes of working memory that tiles are planned for; 0: 1 GiB, or a quarter of what is free
                            where that is less */
    int32_t threads;     /* that one call computes with; 0: as many as the process has cores */
    int32_t tile;        /* side of a tile in pixels of the input; 0: tiles for what does not fit into memory only */
    int32_t overlap;     /* pixels read around a tile; 0: as many as the model sees, so that no tile shows */
    int32_t reserved;    /* 0 */
} sr_options;

#define SR_TILE_NEVER (-1)
#define SR_OVERLAP_NONE (-1)

#ifdef __cplusplus
#define SR_OPTIONS_INIT {sizeof(sr_options), nullptr, nullptr, nullptr, nullptr, 0, 0, 0, 0, 0}
#define SR_INFO_INIT {sizeof(sr_info), 0, 0, 0, 0, 0, 0, {0}, {0}}
#else
#define SR_OPTIONS_INIT {sizeof(sr_options), NULL, NULL, NULL, NULL, 0, 0, 0, 0, 0}
#define SR_INFO_INIT {sizeof(sr_info), 0, 0, 0, 0, 0, 0, {0}, {0}}
#endif

/* What is known of an open model. */
typedef struct sr_info {
    size_t size;        /* sizeof(sr_info), set by the caller */
    int32_t scale;      /* pixels of the output for one of the input, along each axis */
    int32_t channels;   /* of the net: 3 or 1. Pictures of either kind are taken */
    int32_t halo;       /* pixels the net sees around a pixel; SR_HALO_GLOBAL: the whole picture, so never tiled unasked */
    int32_t max_width;  /* of one piece of work of the engine; 0: no limit. Larger pictures are tiled */
    int32_t max_height; /* likewise */
    int32_t max_batch;  /* likewise, in pictures */
    char backend[32];   /* what computes, such as "onnxruntime" */
    char model[128];    /* the model's name, cut where it is longer */
} sr_info;

#define SR_HALO_GLOBAL (-1)

/* An open model. Opaque, and never a pointer to anything: using one that was closed is an error like others. */
typedef struct sr_upscaler sr_upscaler;

/* The version of the library, such as "0.1.0". Lives for ever. */
SR_API const char *sr_version(void);

/* The name of a status, such as "SR_ERROR_MODEL". Lives for ever. */
SR_API const char *sr_status_name(sr_status status);

/* Open a model: the path of an .onnx file or of an engine in UTF-8, or the name of a bundled model, such as "rt-x4".
 * `options` may be NULL. Where it fails, *opened is NULL, and sr_last_error(NULL) says why. */
SR_API sr_status sr_open(const char *model, const sr_options *options, sr_upscaler **opened);

/* Fill in what is known of the model; info->size has to be set. */
SR_API sr_status sr_query(const sr_upscaler *upscaler, sr_info *info);

/* The size of the result for a picture of `width` x `height` pixels. */
SR_API sr_status sr_output_size(const sr_upscaler *upscaler, int32_t width, int32_t height, int32_t *output_width,
                                int32_t *output_height);

/* Upscale one picture. `output` has the size that sr_output_size tells, and the depth and layout of `input`. */
SR_API sr_status sr_upscale(const sr_upscaler *upscaler, const sr_image *input, const sr_image *output);

/* Upscale `count` pictures of any sizes, inputs[i] to outputs[i], in this order, with the results of as many calls of
 * sr_upscale. All are checked before the first is computed. No picture at all is fine. */
SR_API sr_status sr_upscale_batch(const sr_upscaler *upscaler, const sr_image *inputs, const sr_image *outputs,
                                  size_t count);

/* What went wrong in this thread's last call with this handle, in UTF-8; "" where nothing did. With NULL, in its last
 * sr_open or call without a handle. Kept for the last 16 handles that failed in a thread. Never NULL. */
SR_API const char *sr_last_error(const sr_upscaler *upscaler);

/* Close a handle and give back what it holds. NULL is fine; closing twice is SR_ERROR_CLOSED. */
SR_API sr_status sr_close(sr_upscaler *upscaler);

#ifdef __cplusplus
}
#endif

#endif /* SR_DEPLOY_H */
