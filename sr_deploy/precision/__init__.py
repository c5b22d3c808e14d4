"""Changes the precision of a model: fp16, bf16, and int8 calibrated on photographs."""
