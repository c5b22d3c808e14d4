/*
 * Frames that are computed at once, in the order in which they came. Part of sruscale.c.
 *
 * The streaming thread adds jobs and takes results; worker threads compute. Of a worker's job only `done` and
 * `cancelled` are shared, under the lock of the queue.
 */
#ifndef SRUSCALE_JOBS_H
#define SRUSCALE_JOBS_H

#include <gst/video/video.h>

#include "caps.h"
#include "library.h"
#include "sr_deploy.h"

/* One frame. It belongs to the queue and to the worker; the last of them frees it. */
typedef struct Job {
    gint owners;
    GstVideoFrame small, large; /* both are mapped until the worker is done */
    GstBuffer *result;
    sr_upscaler *upscaler;
    gint matrix, range, siting;
    gboolean done, cancelled;
    sr_status status;
    gchar *error; /* the sentence of a status other than SR_OK */
} Job;

typedef struct Jobs {
    GMutex lock;
    GCond changed;
    GQueue waiting;
    GThreadPool *workers;
    gboolean flushing;
} Jobs;

/* Drop one owner of a job. */
static void release_job(Job *job)
{
    if (!g_atomic_int_dec_and_test(&job->owners))
        return;
    gst_clear_buffer(&job->result);
    g_free(job->error);
    g_free(job);
}

/* Return the bytes from `address` to the end of the mapping of `frame` that contains it. */
static gsize bytes_behind(const GstVideoFrame *frame, const guint8 *address)
{
    for (int i = 0; i < GST_VIDEO_MAX_PLANES; i++) {
        const guint8 *first = frame->map[i].data;
        if (first && address >= first && address < first + frame->map[i].size)
            return (gsize)(first + frame->map[i].size - address);
    }
    return 0;
}

/* Describe a mapped frame for sr_upscale_frame. */
static sr_frame described(GstVideoFrame *frame, const Job *job)
{
    sr_frame result = {0};
    result.format = frame_format(GST_VIDEO_FRAME_FORMAT(frame));
    result.width = GST_VIDEO_FRAME_WIDTH(frame);
    result.height = GST_VIDEO_FRAME_HEIGHT(frame);
    result.matrix = job->matrix;
    result.range = job->range;
    result.siting = job->siting;
    for (guint i = 0; i < GST_VIDEO_FRAME_N_PLANES(frame) && i < SR_FRAME_PLANES; i++) {
        result.planes[i] = GST_VIDEO_FRAME_PLANE_DATA(frame, i);
        result.bytes[i] = bytes_behind(frame, GST_VIDEO_FRAME_PLANE_DATA(frame, i));
        result.strides[i] = (gsize)GST_VIDEO_FRAME_PLANE_STRIDE(frame, i);
    }
    return result;
}

/* Compute a job, in a thread of the pool. */
static void work(gpointer data, gpointer user)
{
    Job *job = data;
    Jobs *jobs = user;
    gboolean cancelled;
    g_mutex_lock(&jobs->lock);
    cancelled = job->cancelled;
    g_mutex_unlock(&jobs->lock);
    if (!cancelled) {
        const sr_frame small = described(&job->small, job), large = described(&job->large, job);
        job->status = library.upscale_frame(job->upscaler, &small, &large);
        if (job->status != SR_OK)
            job->error = g_strdup(library.last_error(job->upscaler)); /* the text belongs to this thread */
    }
    gst_video_frame_unmap(&job->small);
    gst_video_frame_unmap(&job->large);
    g_mutex_lock(&jobs->lock);
    job->done = TRUE;
    g_cond_broadcast(&jobs->changed);
    g_mutex_unlock(&jobs->lock);
    release_job(job);
}

static void init_jobs(Jobs *jobs)
{
    g_mutex_init(&jobs->lock);
    g_cond_init(&jobs->changed);
    g_queue_init(&jobs->waiting);
}

static void clear_jobs(Jobs *jobs)
{
    g_mutex_clear(&jobs->lock);
    g_cond_clear(&jobs->changed);
}

/* Start `count` workers. On failure *error is set. */
static gboolean start_jobs(Jobs *jobs, gint count, GError **error)
{
    jobs->flushing = FALSE;
    jobs->workers = g_thread_pool_new(work, jobs, count, TRUE, error);
    return jobs->workers && !*error;
}

/* Give up all jobs. Those that have not begun are not computed. */
static void discard_jobs(Jobs *jobs)
{
    Job *job;
    g_mutex_lock(&jobs->lock);
    while ((job = g_queue_pop_head(&jobs->waiting))) {
        job->cancelled = TRUE;
        release_job(job);
    }
    g_mutex_unlock(&jobs->lock);
}

/* Give up all jobs and end the workers. Waits for the frames that are being computed. */
static void stop_jobs(Jobs *jobs)
{
    discard_jobs(jobs);
    if (jobs->workers)
        g_thread_pool_free(jobs->workers, FALSE, TRUE);
    jobs->workers = NULL;
}

/* Let waiting threads return at once (TRUE), or let them wait again. */
static void set_flushing(Jobs *jobs, gboolean flushing)
{
    g_mutex_lock(&jobs->lock);
    jobs->flushing = flushing;
    for (GList *each = jobs->waiting.head; flushing && each; each = each->next)
        ((Job *)each->data)->cancelled = TRUE;
    g_cond_broadcast(&jobs->changed);
    g_mutex_unlock(&jobs->lock);
}

/* Add a job; the queue and the worker own it from now on. */
static void add_job(Jobs *jobs, Job *job)
{
    job->owners = 2;
    g_mutex_lock(&jobs->lock);
    g_queue_push_tail(&jobs->waiting, job);
    g_mutex_unlock(&jobs->lock);
    g_thread_pool_push(jobs->workers, job, NULL); /* an exclusive pool has its threads already */
}

/* Return the number of jobs in the queue. */
static guint count_jobs(Jobs *jobs)
{
    guint count;
    g_mutex_lock(&jobs->lock);
    count = g_queue_get_length(&jobs->waiting);
    g_mutex_unlock(&jobs->lock);
    return count;
}

/* Wait for the oldest job and take it out of the queue. NULL: the queue is empty, or the element is flushing. The caller
 * releases the job. */
static Job *take_job(Jobs *jobs)
{
    Job *job;
    g_mutex_lock(&jobs->lock);
    while (!jobs->flushing && (job = g_queue_peek_head(&jobs->waiting)) && !job->done)
        g_cond_wait(&jobs->changed, &jobs->lock);
    job = jobs->flushing ? NULL : g_queue_pop_head(&jobs->waiting);
    g_mutex_unlock(&jobs->lock);
    return job;
}

#endif
