/*
 * An application around sruscale, for tests: host WHAT PIPELINE [NUMBER...]. The pipeline has an sruscale named "up".
 * Prints one line of JSON.
 *
 *     run                 play to the end
 *     seek N              play, and seek with a flush to N random times
 *     early-eos N         send EOS after N frames went into sruscale
 *     stop N              play and stop N times, each time after two frames went in
 *     late N MS           after the first result, tell sruscale that results before N milliseconds are too late
 *     latency             play until the first result, and query the latency
 *     memory N            play to the end; resident memory after every N results
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <gst/gst.h>

static gint into, out_of, in_order = 1;
static GstClockTime last = GST_CLOCK_TIME_NONE, first_after_seek = GST_CLOCK_TIME_NONE;
static gint after_seek, every, late_after;
static GstClockTime late_until;

static long resident(void)
{
    long pages = 0, ignored;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file && fscanf(file, "%ld %ld", &ignored, &pages) != 2)
        pages = 0;
    if (file)
        fclose(file);
    return pages * sysconf(_SC_PAGESIZE);
}

static int threads(void)
{
    int count = 0;
    GDir *folder = g_dir_open("/proc/self/task", 0, NULL);
    while (folder && g_dir_read_name(folder))
        count++;
    if (folder)
        g_dir_close(folder);
    return count;
}

static GstPadProbeReturn count_in(GstPad *pad, GstPadProbeInfo *info, gpointer user)
{
    (void)pad, (void)info, (void)user;
    g_atomic_int_inc(&into);
    return GST_PAD_PROBE_OK;
}

static GstPadProbeReturn count_out(GstPad *pad, GstPadProbeInfo *info, gpointer user)
{
    const GstClockTime time = GST_BUFFER_PTS(GST_PAD_PROBE_INFO_BUFFER(info));
    (void)user;
    if (g_atomic_int_compare_and_exchange(&after_seek, 1, 0))
        first_after_seek = time;
    else if (GST_CLOCK_TIME_IS_VALID(last) && time <= last)
        in_order = 0;
    last = time;
    g_atomic_int_inc(&out_of);
    if (every && out_of % every == 0)
        printf("%s%ld", out_of == every ? "{\"resident\": [" : ", ", resident());
    if (late_until && late_after++ == 0)
        gst_pad_send_event(pad, gst_event_new_qos(GST_QOS_TYPE_UNDERFLOW, 1.0, (GstClockTimeDiff)late_until, time));
    return GST_PAD_PROBE_OK;
}

static GstPadProbeReturn note_flush(GstPad *pad, GstPadProbeInfo *info, gpointer user)
{
    (void)pad, (void)user;
    if (GST_EVENT_TYPE(GST_PAD_PROBE_INFO_EVENT(info)) == GST_EVENT_FLUSH_STOP)
        g_atomic_int_set(&after_seek, 1);
    return GST_PAD_PROBE_OK;
}

/* Wait for the end or an error, counting what sruscale posts. Returns FALSE after an error, which is printed. */
static gboolean wait_for_end(GstBus *bus, int *dropped)
{
    for (;;) {
        GstMessage *message =
            gst_bus_timed_pop_filtered(bus, 300 * GST_SECOND, GST_MESSAGE_EOS | GST_MESSAGE_ERROR | GST_MESSAGE_QOS);
        if (!message) {
            fprintf(stderr, "nothing happened for 300 s\n");
            return FALSE;
        }
        if (GST_MESSAGE_TYPE(message) == GST_MESSAGE_ERROR) {
            GError *error = NULL;
            gst_message_parse_error(message, &error, NULL);
            fprintf(stderr, "%s: %s\n", GST_OBJECT_NAME(GST_MESSAGE_SRC(message)), error->message);
            return FALSE;
        }
        if (GST_MESSAGE_TYPE(message) == GST_MESSAGE_QOS) {
            if (!strcmp(GST_OBJECT_NAME(GST_MESSAGE_SRC(message)), "up"))
                ++*dropped;
        } else {
            gst_message_unref(message);
            return TRUE;
        }
        gst_message_unref(message);
    }
}

static void wait_for(gint *counter, gint value)
{
    for (int i = 0; i < 300000 && g_atomic_int_get(counter) < value; i++)
        g_usleep(1000);
}

int main(int count, char **arguments)
{
    GError *error = NULL;
    GstElement *pipeline, *up;
    GstPad *small, *large;
    GstBus *bus;
    const char *what;
    int number, dropped = 0, wrong_seeks = 0;
    gst_init(&count, &arguments);
    if (count < 3)
        return 2;
    what = arguments[1];
    number = count > 3 ? atoi(arguments[3]) : 0;
    pipeline = gst_parse_launch(arguments[2], &error);
    if (!pipeline || error) {
        fprintf(stderr, "%s\n", error->message);
        return 1;
    }
    up = gst_bin_get_by_name(GST_BIN(pipeline), "up");
    small = gst_element_get_static_pad(up, "sink");
    large = gst_element_get_static_pad(up, "src");
    gst_pad_add_probe(small, GST_PAD_PROBE_TYPE_BUFFER, count_in, NULL, NULL);
    gst_pad_add_probe(large, GST_PAD_PROBE_TYPE_BUFFER, count_out, NULL, NULL);
    gst_pad_add_probe(large, GST_PAD_PROBE_TYPE_EVENT_FLUSH, note_flush, NULL, NULL);
    bus = gst_element_get_bus(pipeline);
    if (!strcmp(what, "memory"))
        every = number;
    if (!strcmp(what, "late"))
        late_until = (GstClockTime)number * GST_MSECOND;
    if (!strcmp(what, "stop")) {
        int before = 0;
        for (int i = 0; i < number; i++) {
            g_atomic_int_set(&into, 0);
            last = GST_CLOCK_TIME_NONE;
            gst_element_set_state(pipeline, GST_STATE_PLAYING);
            wait_for(&into, 2);
            gst_element_set_state(pipeline, GST_STATE_NULL);
            if (i == number / 2)
                before = threads();
        }
        printf("{\"threads\": [%d, %d]}\n", before, threads());
        return 0;
    }
    gst_element_set_state(pipeline, GST_STATE_PLAYING);
    if (!strcmp(what, "seek")) {
        g_random_set_seed(1);
        wait_for(&out_of, 1);
        for (int i = 0; i < number; i++) {
            const GstClockTime target = (GstClockTime)g_random_int_range(0, 50) * GST_SECOND / 10;
            GstClockTime found;
            gst_element_seek_simple(pipeline, GST_FORMAT_TIME, GST_SEEK_FLAG_FLUSH | GST_SEEK_FLAG_ACCURATE,
                                    (gint64)target);
            gst_element_get_state(pipeline, NULL, NULL, 10 * GST_SECOND);
            for (int j = 0; j < 10000 && g_atomic_int_get(&after_seek); j++)
                g_usleep(1000);
            found = first_after_seek;
            wrong_seeks += found > target || found + GST_SECOND / 5 < target;
        }
        gst_element_send_event(pipeline, gst_event_new_eos());
    }
    if (!strcmp(what, "early-eos")) {
        wait_for(&into, number);
        gst_element_send_event(pipeline, gst_event_new_eos());
    }
    if (!strcmp(what, "latency")) {
        GstQuery *query = gst_query_new_latency();
        GstClockTime least = 0, most = 0;
        gboolean live = FALSE;
        wait_for(&out_of, 1);
        if (gst_pad_query(large, query))
            gst_query_parse_latency(query, &live, &least, &most);
        printf("{\"live\": %s, \"least\": %" G_GUINT64_FORMAT "}\n", live ? "true" : "false", least);
        gst_query_unref(query);
        gst_element_set_state(pipeline, GST_STATE_NULL);
        return 0;
    }
    if (!wait_for_end(bus, &dropped)) {
        gst_element_set_state(pipeline, GST_STATE_NULL);
        return 1;
    }
    gst_element_set_state(pipeline, GST_STATE_NULL);
    if (every) {
        printf("]}\n");
        return 0;
    }
    gst_object_unref(small);
    gst_object_unref(large);
    gst_object_unref(up);
    gst_object_unref(bus);
    gst_object_unref(pipeline);
    gst_deinit(); /* GStreamer's tracer of leaks reports here */
    printf("{\"in\": %d, \"out\": %d, \"in_order\": %s, \"dropped\": %d, \"wrong_seeks\": %d}\n", into, out_of,
           in_order ? "true" : "false", dropped, wrong_seeks);
    return 0;
}
