"""Run a measurement: open models in worker processes, time them, and record what else the machine did."""
