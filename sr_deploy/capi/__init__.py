"""The C library: `sr_deploy.h`, what is behind it, and what builds it (`sr-deploy capi build`).

`sr_deploy.c` checks arguments and calls `bridge`, in an interpreter inside the calling process; `buffers` makes
arrays of the caller's memory. There is one implementation of everything that touches a pixel: this package.
"""
