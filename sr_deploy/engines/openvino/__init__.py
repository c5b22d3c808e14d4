"""OpenVINO: an engine for the CPU."""
