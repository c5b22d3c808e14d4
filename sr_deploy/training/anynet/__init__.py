"""Any net to ONNX: community checkpoints, one's own modules, exported programs.

`finding.py` finds a net and what is known of it, `exporting.py` turns it into a checked ONNX file.
"""
