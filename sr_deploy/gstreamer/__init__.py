"""The GStreamer element `sruscale`: its C sources, and the code that builds and checks the plugin.

The element is written in C on the C library, so GStreamer loads it like any other plugin, with any Python that
has sr-deploy. docs/gstreamer.md says why it is not written in Python.
"""
