"""Measuring how fast models run: what to measure (`cases`), how (`measure`), what comes out (`result`), and
what that means (`summary`, `compare`, `gate`). Nothing here imports torch."""
