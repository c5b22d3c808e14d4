"""The C library: its header `sr_deploy.h`, its implementation, and its builder (`sr-deploy capi build`).

`sr_deploy.c` checks arguments and calls `bridge` in a Python interpreter inside the calling process.
`buffers` turns the caller's memory into arrays. All arithmetic on pixels is done by the rest of this
package, so a C program gets the same bytes as a Python program.
"""
