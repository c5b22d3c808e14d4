"""Picture files, one module a format: walked, checked, decoded and written. `sr_deploy.images.image` is the way in.

Nothing here knows of models or of scaling. Modules are imported when a file of their kind turns up.
"""
