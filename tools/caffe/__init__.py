"""Native sources: the build of Caffe and the layers of this project, shipped as package data."""
