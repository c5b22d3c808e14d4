"""Measure how fast models run.

`sizes` and `frames` define what is measured, `run` measures it, `result` holds the figures, and `summary`,
`compare`, `gate` and `scaling` interpret them. `report` makes an HTML page. Nothing here imports torch.
"""
