"""Caffe's layer types as ONNX operators: one function per type or family, registered in ``layer.converters``."""
