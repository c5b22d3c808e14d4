"""Picture files, one module per format: parsed, checked, decoded and written.

`sr_deploy.images.image` is the public interface. Nothing here knows models or scaling. The module of a
format is imported when the first file of that format is read or written.
"""
