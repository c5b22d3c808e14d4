"""The operating system: locks, memory, processor, and files that are written completely or not at all.

Modules here depend on nothing but the standard library and `sr_deploy.errors`.
"""
