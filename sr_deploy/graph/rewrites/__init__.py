"""Rewrites of a graph that keep its picture, for a runtime that wants another form."""
