/*
 * The C library of sr-deploy, loaded when the first element starts. Part of sruscale.c.
 *
 * The plugin is not linked with it, because GStreamer loads every plugin to list its elements, and with the C library
 * comes a Python: gst-python's plugin crashes in a process that has another Python than its own (seen in 1.22).
 */
#ifndef SRUSCALE_LIBRARY_H
#define SRUSCALE_LIBRARY_H

#include <dlfcn.h>

#include <gmodule.h>

#include "sr_deploy.h"

/* Functions of sr_deploy.h that the element calls. */
static struct library {
    sr_status (*open)(const char *, const sr_options *, sr_upscaler **);
    sr_status (*query)(const sr_upscaler *, sr_info *);
    sr_status (*upscale_frame)(const sr_upscaler *, const sr_frame *, const sr_frame *);
    const char *(*last_error)(const sr_upscaler *);
    sr_status (*close)(sr_upscaler *);
} library;

/* Return the path of the C library, which lies in ../lib beside the folder of the plugin. The caller frees it. */
static gchar *library_path(void)
{
    Dl_info plugin;
    gchar *folder, *path;
    if (!dladdr(&library, &plugin) || !plugin.dli_fname)
        return NULL;
    folder = g_path_get_dirname(plugin.dli_fname);
    path = g_build_filename(folder, "..", "lib", SRUSCALE_LIBRARY, NULL);
    g_free(folder);
    return path;
}

/* Return the reason why the Python of this process, if there is one, cannot serve the library; else NULL. The caller
 * frees the text. */
static gchar *foreign_python(void)
{
    const char *(*version)(void);
    gpointer found = dlsym(RTLD_DEFAULT, "Py_GetVersion");
    memcpy(&version, &found, sizeof version); /* ISO C has no cast from void * to a function pointer */
    if (!found || (g_str_has_prefix(version(), SRUSCALE_PYTHON) && !g_ascii_isdigit(version()[strlen(SRUSCALE_PYTHON)])))
        return NULL;
    return g_strdup_printf("this program runs Python %.*s already, and sruscale was built for Python %s; build it again "
                           "with that Python: python -m sr_deploy gstreamer --plugin-path",
                           (int)strcspn(version(), " "), version(), SRUSCALE_PYTHON);
}

/* Load the library. Returns NULL, or a sentence that says why not, which the caller frees. */
static gchar *load_library(void)
{
    static GMutex loading;
    static GModule *module; /* stays loaded: Python cannot be unloaded */
    const struct {
        const char *name;
        gpointer *place;
    } functions[] = {
        {"sr_open", (gpointer *)&library.open},
        {"sr_query", (gpointer *)&library.query},
        {"sr_upscale_frame", (gpointer *)&library.upscale_frame},
        {"sr_last_error", (gpointer *)&library.last_error},
        {"sr_close", (gpointer *)&library.close},
    };
    gchar *path = NULL, *problem = NULL;
    g_mutex_lock(&loading);
    if (!module && !(problem = foreign_python())) {
        path = library_path();
        module = path ? g_module_open(path, G_MODULE_BIND_LOCAL) : NULL;
        for (gsize i = 0; module && i < G_N_ELEMENTS(functions); i++)
            if (!g_module_symbol(module, functions[i].name, functions[i].place))
                module = NULL;
        if (!module)
            problem = g_strdup_printf("the library of sr-deploy cannot be loaded (%s); make it again with `sr-deploy "
                                      "gstreamer --plugin-path`, and keep both of its folders",
                                      path ? g_module_error() : "the plugin has no path");
    }
    g_mutex_unlock(&loading);
    g_free(path);
    return problem;
}

#endif
