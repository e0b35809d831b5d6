"""Floor 4: the net as other tools have it: run in numpy, as ONNX, as Python."""
