"""Generate, check and convert Caffe prototxts; build and run Caffe itself."""

__version__ = "0.1.0"
