/*
 * sruscale: a GStreamer element that upscales raw video with a model of sr-deploy.
 *
 * Pixels are computed by the C library. Here are caps, buffers, events, latency and errors. `sr-deploy gstreamer`
 * compiles this file and defines SRUSCALE_VERSION, SRUSCALE_LIBRARY (file name of the C library), SRUSCALE_PYTHON (the
 * minor version of Python that it was built for) and SRUSCALE_MODELS (the bundled model for each scale).
 *
 * Several frames are computed at once (property `streams`), because one frame at a time leaves the engine idle while
 * frames are converted and passed on. Serialized events wait for the frames before them. A flush discards frames.
 */
#include <stdio.h>
#include <string.h>

#include <gst/video/gstvideofilter.h>

#include "caps.h"
#include "jobs.h"
#include "library.h"
#include "sr_deploy.h"

#define DEFAULT_SCALE 4
#define DEFAULT_BACKEND "auto"
#define DEFAULT_TILE "auto"
#define DEFAULT_STREAMS 2

GST_DEBUG_CATEGORY_STATIC(sruscale_debug);
#define GST_CAT_DEFAULT sruscale_debug

/* The properties. */
typedef struct Settings {
    gchar *model, *backend, *tile;
    gint scale, threads;
    guint streams;
} Settings;

typedef struct Sruscale {
    GstVideoFilter parent;
    Settings settings;     /* under the lock of the object */
    sr_upscaler *upscaler; /* open between start and stop */
    gint scale;            /* of the open model; 0: none is open */
    gint running;          /* `streams` when the element started */
    gint matrix, range, siting;
    GstClockTime latency; /* what the element adds; 0: not known yet */
    Jobs jobs;
} Sruscale;

typedef struct SruscaleClass {
    GstVideoFilterClass parent;
} SruscaleClass;

enum { NO_PROPERTY, MODEL, SCALE, BACKEND, TILE, THREADS, STREAMS };

GType sruscale_get_type(void);
G_DEFINE_TYPE(Sruscale, sruscale, GST_TYPE_VIDEO_FILTER)
#define SRUSCALE(object) G_TYPE_CHECK_INSTANCE_CAST(object, sruscale_get_type(), Sruscale)

/* Bundled model for each scale, the best first. */
static const struct bundled {
    gint scale;
    const char *name;
} bundled[] = {SRUSCALE_MODELS};

static void set_property(GObject *object, guint id, const GValue *value, GParamSpec *spec)
{
    Sruscale *self = SRUSCALE(object);
    Settings *own = &self->settings;
    gchar **text = id == MODEL ? &own->model : id == BACKEND ? &own->backend : &own->tile;
    GST_OBJECT_LOCK(self);
    switch (id) {
    case MODEL:
    case BACKEND:
    case TILE:
        g_free(*text);
        *text = g_value_dup_string(value);
        break;
    case SCALE: own->scale = g_value_get_int(value); break;
    case THREADS: own->threads = g_value_get_int(value); break;
    case STREAMS: own->streams = g_value_get_uint(value); break;
    default: G_OBJECT_WARN_INVALID_PROPERTY_ID(object, id, spec);
    }
    GST_OBJECT_UNLOCK(self);
}

static void get_property(GObject *object, guint id, GValue *value, GParamSpec *spec)
{
    Sruscale *self = SRUSCALE(object);
    GST_OBJECT_LOCK(self);
    switch (id) {
    case MODEL: g_value_set_string(value, self->settings.model); break;
    case BACKEND: g_value_set_string(value, self->settings.backend); break;
    case TILE: g_value_set_string(value, self->settings.tile); break;
    case SCALE: g_value_set_int(value, self->settings.scale); break;
    case THREADS: g_value_set_int(value, self->settings.threads); break;
    case STREAMS: g_value_set_uint(value, self->settings.streams); break;
    default: G_OBJECT_WARN_INVALID_PROPERTY_ID(object, id, spec);
    }
    GST_OBJECT_UNLOCK(self);
}

/* Post an error that ends the pipeline. */
#define REFUSE(self, domain, code, ...) GST_ELEMENT_ERROR(self, domain, code, (__VA_ARGS__), (NULL))

/* Return the model to open: the property, else the bundled one for the scale. NULL: there is none, which was posted. */
static const char *chosen_model(Sruscale *self, const Settings *settings)
{
    const gint scale = settings->scale ? settings->scale : DEFAULT_SCALE;
    GString *known;
    if (settings->model)
        return settings->model;
    for (gsize i = 0; i < G_N_ELEMENTS(bundled); i++)
        if (bundled[i].scale == scale)
            return bundled[i].name;
    known = g_string_new(NULL);
    for (gsize i = 0; i < G_N_ELEMENTS(bundled); i++)
        g_string_append_printf(known, "%s%d (%s)", i ? ", " : "", bundled[i].scale, bundled[i].name);
    REFUSE(self, RESOURCE, SETTINGS,
           "no bundled model has scale %d, the available scales are: %s; choose one of these, or set the property model",
           scale, known->str);
    g_string_free(known, TRUE);
    return NULL;
}

/* Read the property `tile` into the options. FALSE: it is wrong, which was posted. */
static gboolean read_tile(Sruscale *self, const char *tile, sr_options *options)
{
    guint64 side = 0;
    if (!tile || !g_ascii_strcasecmp(tile, "auto"))
        return TRUE;
    if (!g_ascii_strcasecmp(tile, "none"))
        options->tile = SR_TILE_NEVER;
    else if (g_ascii_string_to_unsigned(tile, 10, 1, G_MAXINT32, &side, NULL))
        options->tile = (gint32)side;
    else {
        REFUSE(self, RESOURCE, SETTINGS, "tile \"%s\" is not auto, none or a number of pixels; set one of these", tile);
        return FALSE;
    }
    return TRUE;
}

/* Pass a message of sr-deploy on to the application. */
static void tell(void *context, const char *text)
{
    GST_ELEMENT_INFO(context, LIBRARY, SETTINGS, ("%s", text), (NULL));
}

/* Load the C library. FALSE: it failed, which was posted. */
static gboolean load(Sruscale *self)
{
    gchar *problem = load_library();
    if (problem)
        REFUSE(self, LIBRARY, INIT, "%s", problem);
    g_free(problem);
    return problem == NULL;
}

/* Open the model. FALSE: it failed, which was posted. */
static gboolean open_model(Sruscale *self, const Settings *settings)
{
    sr_options options = SR_OPTIONS_INIT;
    sr_info info = SR_INFO_INIT;
    const char *model = chosen_model(self, settings);
    sr_status status;
    if (!model || !read_tile(self, settings->tile, &options) || !load(self))
        return FALSE;
    options.backend = settings->backend && strcmp(settings->backend, DEFAULT_BACKEND) ? settings->backend : NULL;
    options.threads = settings->threads;
    options.notify = tell;
    options.context = self;
    status = library.open(model, &options, &self->upscaler);
    if (status == SR_ERROR_ARGUMENT || status == SR_ERROR_MODEL)
        REFUSE(self, RESOURCE, SETTINGS, "%s", library.last_error(NULL));
    else if (status != SR_OK)
        REFUSE(self, LIBRARY, INIT, "%s", library.last_error(NULL));
    if (status != SR_OK)
        return FALSE;
    if (library.query(self->upscaler, &info) != SR_OK) {
        REFUSE(self, LIBRARY, FAILED, "%s", library.last_error(self->upscaler));
        return FALSE;
    }
    if (settings->scale && settings->scale != info.scale) {
        REFUSE(self, RESOURCE, SETTINGS, "model %s has scale %d and the property scale asks for %d; leave one out",
               model, info.scale, settings->scale);
        return FALSE;
    }
    g_atomic_int_set(&self->scale, info.scale);
    GST_INFO_OBJECT(self, "opened %s, scale %d, on %s", info.model, info.scale, info.backend);
    return TRUE;
}

/* Free the texts of a copy of the properties. */
static void clear_settings(Settings *settings)
{
    g_free(settings->model);
    g_free(settings->backend);
    g_free(settings->tile);
}

/* Return a copy of the properties, which may change at any time. */
static Settings copied_settings(Sruscale *self)
{
    Settings copy;
    GST_OBJECT_LOCK(self);
    copy = self->settings;
    copy.model = g_strdup(copy.model);
    copy.backend = g_strdup(copy.backend);
    copy.tile = g_strdup(copy.tile);
    GST_OBJECT_UNLOCK(self);
    return copy;
}

/* GstBaseTransform.stop: end the workers and close the model. */
static gboolean stop(GstBaseTransform *base)
{
    Sruscale *self = SRUSCALE(base);
    stop_jobs(&self->jobs);
    if (self->upscaler)
        library.close(self->upscaler);
    self->upscaler = NULL;
    self->latency = 0;
    g_atomic_int_set(&self->scale, 0);
    return TRUE;
}

/* GstBaseTransform.start: open the model and start the workers. */
static gboolean start(GstBaseTransform *base)
{
    Sruscale *self = SRUSCALE(base);
    GError *error = NULL;
    Settings settings = copied_settings(self);
    gboolean started = open_model(self, &settings);
    self->running = (gint)settings.streams;
    clear_settings(&settings);
    if (started && !start_jobs(&self->jobs, self->running, &error)) {
        REFUSE(self, RESOURCE, FAILED, "no thread could be started: %s; close other programs", error->message);
        started = FALSE;
    }
    g_clear_error(&error);
    if (!started)
        stop(base);
    return started;
}

static GstCaps *transform_caps(GstBaseTransform *base, GstPadDirection direction, GstCaps *caps, GstCaps *filter)
{
    GstCaps *result = scaled_caps(caps, g_atomic_int_get(&SRUSCALE(base)->scale), direction == GST_PAD_SINK);
    if (filter) {
        GstCaps *both = gst_caps_intersect_full(filter, result, GST_CAPS_INTERSECT_FIRST);
        gst_caps_unref(result);
        result = both;
    }
    return result;
}

/* Read the meaning of the values in frames of these caps. FALSE: it is not converted, which was posted. */
static gboolean read_colours(Sruscale *self, const GstCaps *caps, const GstVideoInfo *info)
{
    const GstVideoColorRange range = info->colorimetry.range;
    const GstVideoChromaSite site = chroma_site(caps, info);
    const gboolean across = (site & GST_VIDEO_CHROMA_SITE_H_COSITED) != 0;
    const gboolean down = (site & GST_VIDEO_CHROMA_SITE_V_COSITED) != 0;
    self->matrix = matrix_number(info->colorimetry.matrix);
    self->range = range == GST_VIDEO_COLOR_RANGE_0_255    ? SR_RANGE_FULL
                  : range == GST_VIDEO_COLOR_RANGE_16_235 ? SR_RANGE_LIMITED
                                                          : SR_RANGE_USUAL;
    self->siting = across && down                                    ? SR_CHROMA_TOP_LEFT
                   : across || site == GST_VIDEO_CHROMA_SITE_UNKNOWN ? SR_CHROMA_LEFT
                                                                     : SR_CHROMA_CENTER;
    if (GST_VIDEO_INFO_IS_RGB(info) && range == GST_VIDEO_COLOR_RANGE_16_235) {
        REFUSE(self, STREAM, FORMAT, "RGB of limited range is not converted; put videoconvert before sruscale");
        return FALSE;
    }
    if (GST_VIDEO_INFO_IS_YUV(info) && GST_VIDEO_FORMAT_INFO_H_SUB(info->finfo, 1) && down && !across) {
        REFUSE(self, STREAM, FORMAT,
               "chroma samples on rows but between columns (chroma-site v-cosited) are not converted; put videoconvert "
               "before sruscale");
        return FALSE;
    }
    if (GST_VIDEO_INFO_IS_INTERLACED(info))
        GST_ELEMENT_WARNING(self, STREAM, FORMAT,
                            ("the frames are interlaced, and upscaling blurs them; put deinterlace before sruscale"),
                            (NULL));
    return TRUE;
}

/* GstVideoFilter.set_info: take over new caps. The frames of the old ones were passed on before the event of the new. */
static gboolean set_info(GstVideoFilter *filter, GstCaps *small_caps, GstVideoInfo *small, GstCaps *large_caps,
                         GstVideoInfo *large)
{
    Sruscale *self = SRUSCALE(filter);
    GstClockTime latency = 0;
    (void)large_caps, (void)large;
    if (!read_colours(self, small_caps, small))
        return FALSE;
    if (GST_VIDEO_INFO_FPS_N(small) > 0)
        latency = gst_util_uint64_scale_int(GST_SECOND * (guint64)self->running, GST_VIDEO_INFO_FPS_D(small),
                                            GST_VIDEO_INFO_FPS_N(small));
    GST_OBJECT_LOCK(self);
    const gboolean changed = latency != self->latency;
    self->latency = latency;
    GST_OBJECT_UNLOCK(self);
    if (changed)
        gst_element_post_message(GST_ELEMENT(self), gst_message_new_latency(GST_OBJECT(self)));
    return TRUE;
}

/* GstBaseTransform.decide_allocation: the workers hold results, so a pool needs as many buffers more. */
static gboolean decide_allocation(GstBaseTransform *base, GstQuery *query)
{
    const guint more = (guint)SRUSCALE(base)->running;
    for (guint i = 0; i < gst_query_get_n_allocation_pools(query); i++) {
        GstBufferPool *pool;
        guint size, least, most;
        gst_query_parse_nth_allocation_pool(query, i, &pool, &size, &least, &most);
        if (most && most < least + more) { /* a pool that cannot grow would stop the stream */
            gst_clear_object(&pool);
            most = 0;
        }
        gst_query_set_nth_allocation_pool(query, i, pool, size, least + more, most);
        gst_clear_object(&pool);
    }
    return GST_BASE_TRANSFORM_CLASS(sruscale_parent_class)->decide_allocation(base, query);
}

/* Start computing a frame. Takes over the reference to `small`. */
static GstFlowReturn begin_frame(Sruscale *self, GstBuffer *small)
{
    GstBaseTransform *base = GST_BASE_TRANSFORM(self);
    GstVideoFilter *filter = GST_VIDEO_FILTER(self);
    Job *job = g_new0(Job, 1);
    GstFlowReturn flow =
        GST_BASE_TRANSFORM_GET_CLASS(base)->prepare_output_buffer(base, small, &job->result);
    if (flow != GST_FLOW_OK) {
        gst_buffer_unref(small);
        g_free(job);
        return flow;
    }
    if (!gst_video_frame_map(&job->small, &filter->in_info, small, GST_MAP_READ)) {
        flow = GST_FLOW_ERROR;
    } else if (!gst_video_frame_map(&job->large, &filter->out_info, job->result, GST_MAP_WRITE)) {
        gst_video_frame_unmap(&job->small);
        flow = GST_FLOW_ERROR;
    }
    gst_buffer_unref(small); /* the mapped frame has a reference of its own */
    if (flow != GST_FLOW_OK) {
        REFUSE(self, STREAM, FAILED, "a frame's memory is smaller than its caps say; check the element before sruscale");
        gst_clear_buffer(&job->result);
        g_free(job);
        return flow;
    }
    job->upscaler = self->upscaler;
    job->matrix = self->matrix;
    job->range = self->range;
    job->siting = self->siting;
    add_job(&self->jobs, job);
    return GST_FLOW_OK;
}

/* Wait for the oldest frame. *large is its result, or NULL if there is none. */
static GstFlowReturn end_frame(Sruscale *self, GstBuffer **large)
{
    Job *job = take_job(&self->jobs);
    GstFlowReturn flow = GST_FLOW_OK;
    *large = NULL;
    if (!job)
        return self->jobs.flushing ? GST_FLOW_FLUSHING : GST_FLOW_OK;
    if (job->status == SR_OK)
        *large = g_steal_pointer(&job->result);
    else {
        REFUSE(self, STREAM, FAILED, "%s", job->error);
        flow = GST_FLOW_ERROR;
    }
    release_job(job);
    return flow;
}

/* GstBaseTransform.generate_output: called with each frame, and again as long as it gives results. */
static GstFlowReturn generate_output(GstBaseTransform *base, GstBuffer **large)
{
    Sruscale *self = SRUSCALE(base);
    GstBuffer *small = base->queued_buf;
    GstFlowReturn flow = GST_FLOW_OK;
    *large = NULL;
    base->queued_buf = NULL;
    if (small)
        flow = begin_frame(self, small);
    if (flow == GST_FLOW_OK && count_jobs(&self->jobs) >= (guint)self->running)
        flow = end_frame(self, large);
    return flow;
}

/* Pass on all frames that are still computed. */
static void drain(Sruscale *self)
{
    GstFlowReturn flow = GST_FLOW_OK;
    GstBuffer *large;
    while (flow == GST_FLOW_OK && (flow = end_frame(self, &large)) == GST_FLOW_OK && large)
        flow = gst_pad_push(GST_BASE_TRANSFORM_SRC_PAD(self), large);
    if (flow != GST_FLOW_OK)
        discard_jobs(&self->jobs);
}

static gboolean sink_event(GstBaseTransform *base, GstEvent *event)
{
    Sruscale *self = SRUSCALE(base);
    if (GST_EVENT_TYPE(event) == GST_EVENT_FLUSH_START)
        set_flushing(&self->jobs, TRUE);
    else if (GST_EVENT_TYPE(event) == GST_EVENT_FLUSH_STOP) {
        discard_jobs(&self->jobs);
        set_flushing(&self->jobs, FALSE);
    } else if (GST_EVENT_IS_SERIALIZED(event))
        drain(self);
    return GST_BASE_TRANSFORM_CLASS(sruscale_parent_class)->sink_event(base, event);
}

/* GstBaseTransform.query. A frame is passed on at the latest when as many more have come as are computed at once, if the
 * engine keeps up with the stream; that is the latency. */
static gboolean query(GstBaseTransform *base, GstPadDirection direction, GstQuery *query)
{
    Sruscale *self = SRUSCALE(base);
    GstClockTime least, most, ours;
    gboolean live;
    if (GST_QUERY_TYPE(query) == GST_QUERY_DRAIN && direction == GST_PAD_SINK)
        drain(self);
    if (!GST_BASE_TRANSFORM_CLASS(sruscale_parent_class)->query(base, direction, query))
        return FALSE;
    if (GST_QUERY_TYPE(query) == GST_QUERY_LATENCY && direction == GST_PAD_SRC) {
        GST_OBJECT_LOCK(self);
        ours = self->latency;
        GST_OBJECT_UNLOCK(self);
        gst_query_parse_latency(query, &live, &least, &most);
        gst_query_set_latency(query, live, least + ours, GST_CLOCK_TIME_IS_VALID(most) ? most + ours : most);
    }
    return TRUE;
}

static void finalize(GObject *object)
{
    Sruscale *self = SRUSCALE(object);
    clear_settings(&self->settings);
    clear_jobs(&self->jobs);
    G_OBJECT_CLASS(sruscale_parent_class)->finalize(object);
}

static void sruscale_init(Sruscale *self)
{
    self->settings.backend = g_strdup(DEFAULT_BACKEND);
    self->settings.tile = g_strdup(DEFAULT_TILE);
    self->settings.streams = DEFAULT_STREAMS;
    init_jobs(&self->jobs);
}

/* Install the properties. They are read when the element starts. */
static void install_properties(GObjectClass *class)
{
    const GParamFlags flags = G_PARAM_READWRITE | G_PARAM_STATIC_STRINGS | GST_PARAM_MUTABLE_READY;
    g_object_class_install_property(
        class, MODEL,
        g_param_spec_string("model", "Model",
                            "Bundled model (see 'sr-deploy models') or .onnx file; several joined by + run one after the "
                            "other. Not set: the bundled model for the scale",
                            NULL, flags));
    g_object_class_install_property(
        class, SCALE,
        g_param_spec_int("scale", "Scale", "Scale factor, selects the bundled model for it; 0: 4, or that of the model", 0,
                         G_MAXINT, 0, flags));
    g_object_class_install_property(
        class, BACKEND,
        g_param_spec_string("backend", "Backend", "Runtime to use; 'sr-deploy doctor' lists the choices",
                            DEFAULT_BACKEND, flags));
    g_object_class_install_property(
        class, TILE,
        g_param_spec_string("tile", "Tile",
                            "Side of a tile in input pixels; auto: tiles only for frames that do not fit into memory; "
                            "none: no tiles",
                            DEFAULT_TILE, flags));
    g_object_class_install_property(class, THREADS,
                                    g_param_spec_int("threads", "Threads",
                                                     "Threads of the runtime; 0: one for every core this process may use",
                                                     0, 1024, 0, flags));
    g_object_class_install_property(
        class, STREAMS,
        g_param_spec_uint("streams", "Streams",
                          "Frames computed at once. Several keep the engine busy; each needs its own memory and adds the "
                          "duration of a frame to the latency",
                          1, 64, DEFAULT_STREAMS, flags));
}

static void sruscale_class_init(SruscaleClass *class)
{
    GObjectClass *object = G_OBJECT_CLASS(class);
    GstElementClass *element = GST_ELEMENT_CLASS(class);
    GstBaseTransformClass *base = GST_BASE_TRANSFORM_CLASS(class);
    GstCaps *caps = gst_caps_from_string(GST_VIDEO_CAPS_MAKE(FORMATS));
    object->set_property = set_property;
    object->get_property = get_property;
    object->finalize = finalize;
    install_properties(object);
    base->start = start;
    base->stop = stop;
    base->transform_caps = transform_caps;
    base->decide_allocation = decide_allocation;
    base->generate_output = generate_output;
    base->sink_event = sink_event;
    base->query = query;
    base->transform_ip = NULL; /* a model of scale 1 must not write into its input */
    GST_VIDEO_FILTER_CLASS(class)->set_info = set_info;
    gst_element_class_add_pad_template(element, gst_pad_template_new("sink", GST_PAD_SINK, GST_PAD_ALWAYS, caps));
    gst_element_class_add_pad_template(element, gst_pad_template_new("src", GST_PAD_SRC, GST_PAD_ALWAYS, caps));
    gst_caps_unref(caps);
    gst_element_class_set_static_metadata(element, "Super-resolution", "Filter/Converter/Video/Scaler",
                                          "Upscales video with a super-resolution model", "The sr-deploy developers");
}

static gboolean plugin_init(GstPlugin *plugin)
{
    GST_DEBUG_CATEGORY_INIT(sruscale_debug, "sruscale", 0, "super-resolution of sr-deploy");
    return gst_element_register(plugin, "sruscale", GST_RANK_NONE, sruscale_get_type());
}

#define PACKAGE "sr-deploy"
#if GST_CHECK_VERSION(1, 22, 0)
#define LICENCE "Apache 2.0"
#else /* GStreamer does not load a plugin with a licence that it does not know */
#define LICENCE GST_LICENSE_UNKNOWN
#endif
GST_PLUGIN_DEFINE(GST_VERSION_MAJOR, GST_VERSION_MINOR, srdeploy, "Super-resolution with models of sr-deploy", plugin_init,
                  SRUSCALE_VERSION, LICENCE, PACKAGE, "sr-deploy")
