"""Measuring: subjects in processes of their own, with a stopwatch."""
