"""Engines that run a model, one package a runtime. `registry` opens them by name; `base` is what they have in common."""
