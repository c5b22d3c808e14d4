"""The facts that a picture holds about itself: camera data, colour, captions, density, place on a map.

`blobs` has the value that travels with a picture. Nothing here touches pixels or files.
"""
