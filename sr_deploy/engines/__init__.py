"""Engines: objects that run a model on a runtime, one package or module per backend."""
