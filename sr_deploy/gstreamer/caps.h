/*
 * The formats of sruscale, and caps scaled by the model. Part of sruscale.c.
 */
#ifndef SRUSCALE_CAPS_H
#define SRUSCALE_CAPS_H

#include <gst/video/video.h>

/* The formats that the element takes and gives. */
#define FORMATS                                                                                                        \
    "{ RGB, BGR, RGBA, BGRA, RGBx, BGRx, GRAY8, GRAY16_LE, I420, NV12, P010_10LE, Y42B, NV16, Y444, NV24, I420_10LE, " \
    "I422_10LE, Y444_10LE }"

/* Return the name of a format in sr_deploy.h, or NULL if it is none of FORMATS. */
static const char *frame_format(GstVideoFormat format)
{
    switch (format) {
    case GST_VIDEO_FORMAT_RGB: return "rgb24";
    case GST_VIDEO_FORMAT_BGR: return "bgr24";
    case GST_VIDEO_FORMAT_RGBA: return "rgba";
    case GST_VIDEO_FORMAT_BGRA: return "bgra";
    case GST_VIDEO_FORMAT_RGBx: return "rgb0";
    case GST_VIDEO_FORMAT_BGRx: return "bgr0";
    case GST_VIDEO_FORMAT_GRAY8: return "gray8";
    case GST_VIDEO_FORMAT_GRAY16_LE: return "gray16le";
    case GST_VIDEO_FORMAT_I420: return "yuv420p";
    case GST_VIDEO_FORMAT_NV12: return "nv12";
    case GST_VIDEO_FORMAT_P010_10LE: return "p010le";
    case GST_VIDEO_FORMAT_Y42B: return "yuv422p";
    case GST_VIDEO_FORMAT_NV16: return "nv16";
    case GST_VIDEO_FORMAT_Y444: return "yuv444p";
    case GST_VIDEO_FORMAT_NV24: return "nv24";
    case GST_VIDEO_FORMAT_I420_10LE: return "yuv420p10le";
    case GST_VIDEO_FORMAT_I422_10LE: return "yuv422p10le";
    case GST_VIDEO_FORMAT_Y444_10LE: return "yuv444p10le";
    default: return NULL;
    }
}

/* Return the number of a matrix in ITU-T H.273; 2 (unspecified) for one that is not known. */
static gint matrix_number(GstVideoColorMatrix matrix)
{
    switch (matrix) {
    case GST_VIDEO_COLOR_MATRIX_BT709: return 1;
    case GST_VIDEO_COLOR_MATRIX_FCC: return 4;
    case GST_VIDEO_COLOR_MATRIX_BT601: return 6;
    case GST_VIDEO_COLOR_MATRIX_SMPTE240M: return 7;
    case GST_VIDEO_COLOR_MATRIX_BT2020: return 9;
    default: return 2;
    }
}

/* Scale one side of a picture, an integer, a range or a list. `up`: multiply by `scale`, else divide. Returns FALSE if
 * nothing is left, because no side in it is a multiple of the scale or all are too long. `to` is not initialised. */
static gboolean scaled_side(const GValue *from, GValue *to, gint scale, gboolean up)
{
    gint least, most;
    if (GST_VALUE_HOLDS_LIST(from)) {
        g_value_init(to, GST_TYPE_LIST);
        for (guint i = 0; i < gst_value_list_get_size(from); i++) {
            GValue one = G_VALUE_INIT;
            if (scaled_side(gst_value_list_get_value(from, i), &one, scale, up))
                gst_value_list_append_and_take_value(to, &one);
        }
        if (gst_value_list_get_size(to))
            return TRUE;
        g_value_unset(to);
        return FALSE;
    }
    if (G_VALUE_HOLDS_INT(from))
        least = most = g_value_get_int(from);
    else if (GST_VALUE_HOLDS_INT_RANGE(from)) {
        least = gst_value_get_int_range_min(from);
        most = gst_value_get_int_range_max(from);
    } else
        return FALSE;
    if (up && least > G_MAXINT / scale)
        return FALSE;
    if (!up)
        least = least / scale + (least % scale != 0);
    else
        least *= scale;
    most = !up ? most / scale : most > G_MAXINT / scale ? G_MAXINT : most * scale;
    if (least > most || most < 1)
        return FALSE;
    if (least == most) {
        g_value_init(to, G_TYPE_INT);
        g_value_set_int(to, least);
    } else {
        g_value_init(to, GST_TYPE_INT_RANGE);
        gst_value_set_int_range(to, MAX(least, 1), most);
    }
    return TRUE;
}

/* Scale width and height of a structure. Returns FALSE if no size is left. A scale of 0 means that it is not known yet:
 * any size. */
static gboolean scale_sides(GstStructure *structure, gint scale, gboolean up)
{
    static const char *const sides[] = {"width", "height"};
    for (int i = 0; i < 2; i++) {
        const GValue *from = gst_structure_get_value(structure, sides[i]);
        GValue to = G_VALUE_INIT;
        if (!scale || !from) {
            gst_structure_set(structure, sides[i], GST_TYPE_INT_RANGE, 1, G_MAXINT, NULL);
            continue;
        }
        if (!scaled_side(from, &to, scale, up))
            return FALSE;
        gst_structure_take_value(structure, sides[i], &to);
    }
    return TRUE;
}

#if GST_CHECK_VERSION(1, 20, 0)
#define site_name(site) gst_video_chroma_site_to_string(site)
#define site_of(name) gst_video_chroma_site_from_string(name)
#else
#define site_name(site) g_strdup(gst_video_chroma_to_string(site))
#define site_of(name) gst_video_chroma_from_string(name)
#endif

/* Return the position of the chroma samples. It is read from the caps, because GStreamer's own reader forgets the field
 * `chroma-site` of caps that have no `colorimetry`, as those of its H.264 decoder (seen in 1.22). */
static GstVideoChromaSite chroma_site(const GstCaps *caps, const GstVideoInfo *info)
{
    const char *name = gst_structure_get_string(gst_caps_get_structure(caps, 0), "chroma-site");
    return name ? site_of(name) : info->chroma_site;
}

/* Write the colours that `info` has into `structure`. GStreamer guesses colours that caps do not name by the size of the
 * frame, which would be the wrong size after the element. */
static void name_colours(GstStructure *structure, const GstVideoInfo *info)
{
    gchar *colours = gst_video_colorimetry_to_string(&info->colorimetry);
    if (colours)
        gst_structure_set(structure, "colorimetry", G_TYPE_STRING, colours, NULL);
    g_free(colours);
    if (GST_VIDEO_INFO_IS_YUV(info) && GST_VIDEO_FORMAT_INFO_W_SUB(info->finfo, 1) &&
        !gst_structure_has_field(structure, "chroma-site")) {
        gchar *site = info->chroma_site == GST_VIDEO_CHROMA_SITE_UNKNOWN ? NULL : site_name(info->chroma_site);
        if (site)
            gst_structure_set(structure, "chroma-site", G_TYPE_STRING, site, NULL);
        g_free(site);
    }
}

/* Return the caps on the other side of the element, for caps on the sink side (`up`) or on the source side. */
static GstCaps *scaled_caps(GstCaps *caps, gint scale, gboolean up)
{
    GstCaps *result = gst_caps_new_empty();
    GstVideoInfo info;
    const gboolean known = up && gst_caps_is_fixed(caps) && gst_video_info_from_caps(&info, caps);
    for (guint i = 0; i < gst_caps_get_size(caps); i++) {
        GstStructure *structure = gst_structure_copy(gst_caps_get_structure(caps, i));
        if (known)
            name_colours(structure, &info);
        if (scale_sides(structure, scale, up))
            gst_caps_append_structure_full(result, structure, gst_caps_features_copy(gst_caps_get_features(caps, i)));
        else
            gst_structure_free(structure);
    }
    return result;
}

#endif
