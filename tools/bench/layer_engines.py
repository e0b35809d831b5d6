"""Runs single layers for layers.py in a process of its own: ``layer_engines.py caffe LIBRARY`` or ``torch``.

One JSON list a line on stdin, one JSON value a line on stdout:

    ["load", name, what]   what: for Caffe a net's text, for PyTorch [type, input shape, output size]; sizes back
    ["time", name]         seconds of a forward and of the backward pass after it
    ["drop", name]         its memory is given back
    ["copy", bytes]        seconds to move so many bytes, read and written ones together (Caffe only)
    ["multiply", size]     seconds of a matrix product (Caffe only)
"""

import ctypes
import json
import sys
import time
import types

# Measured at least so long in a row.
SECONDS = 0.02


def repeated(forward, backward):
    """Return the mean seconds of both passes, of as many repetitions as take SECONDS."""
    seconds, times = [0.0, 0.0], 0
    while sum(seconds) < SECONDS:
        start = time.perf_counter()
        forward()
        middle = time.perf_counter()
        backward()
        seconds[0] += middle - start
        seconds[1] += time.perf_counter() - middle
        times += 1
    return [one / times for one in seconds]


class Caffe:
    def __init__(self, path):
        # caffe.io brings image libraries that nothing here needs.
        sys.modules["caffe.io"] = types.ModuleType("caffe.io")
        import caffe
        import numpy

        self.caffe, self.numpy, self.nets = caffe, numpy, {}
        self.native = ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
        self.buffers = {}

    def load(self, name, text):
        import os
        import tempfile

        with tempfile.NamedTemporaryFile("w", suffix=".prototxt", delete=False) as file:
            file.write("force_backward: true\n" + text)
        net = self.nets[name] = self.caffe.Net(file.name, self.caffe.TRAIN)
        os.unlink(file.name)
        rng = self.numpy.random.default_rng(0)
        for blob in net.inputs:
            net.blobs[blob].data[...] = rng.standard_normal(net.blobs[blob].data.shape, dtype="f4")
        net.forward()
        for blob in net.outputs:
            net.blobs[blob].diff[...] = rng.standard_normal(net.blobs[blob].data.shape, dtype="f4")
        net._backward(len(net.layers) - 1, 0)
        count = sum(net.blobs[blob].count for blob in {*net.inputs, *net.outputs})
        params = sum(blob.count for layer in net.layers for blob in layer.blobs)
        return {"values": count, "params": params}

    def time(self, name):
        net = self.nets[name]
        last = len(net.layers) - 1
        return repeated(lambda: net._forward(0, last), lambda: net._backward(last, 0))

    def drop(self, name):
        del self.nets[name]

    def _floats(self, place, count):
        if place not in self.buffers or self.buffers[place].size < count:
            self.buffers[place] = self.numpy.ones(count, "f4")
        return ctypes.c_void_p(self.buffers[place].ctypes.data)

    def copy(self, count):
        half = count // 8 + 1
        to, from_ = self._floats("to", half), self._floats("from", half)
        move = lambda: self.native.copy_bytes(to, from_, ctypes.c_long(count))
        return sum(repeated(move, move)) / 2

    def multiply(self, size):
        a, b, c = (self._floats(name, size * size) for name in "abc")
        product = lambda: self.native.multiply(c, a, b, size)
        return sum(repeated(product, product)) / 2


class Torch:
    def __init__(self):
        import torch

        self.torch, self.layers = torch, {}

    def load(self, name, what):
        kind, shape, size = what
        functional = self.torch.nn.functional
        x = self.torch.randn(*shape, requires_grad=True)
        if kind == "BN":
            layer = self.torch.nn.BatchNorm2d(shape[1])
        else:
            layer = lambda x: functional.interpolate(x, size=size, mode="bilinear", align_corners=True)
        self.layers[name] = [layer, x, self.torch.randn_like(layer(x)), None]
        return {}

    def time(self, name):
        held = self.layers[name]
        layer, x, dy, _ = held

        def forward():
            held[3] = layer(x)

        def backward():
            x.grad = None
            held[3].backward(dy)

        return repeated(forward, backward)

    def drop(self, name):
        del self.layers[name]


def main():
    engine = Caffe(sys.argv[2]) if sys.argv[1] == "caffe" else Torch()
    for line in sys.stdin:
        verb, *arguments = json.loads(line)
        print(json.dumps(getattr(engine, verb)(*arguments)), flush=True)


if __name__ == "__main__":
    main()
