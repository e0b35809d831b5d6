"""Nets as tests write them: prototxt texts of layers, and models of texts."""

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.io import Model, loads

NetParameter = DEFAULT_DIALECT.message("NetParameter")


def model(text, **blobs):
    """The model of a net's text, with blobs by layer."""
    return Model(loads(text, NetParameter), blobs=blobs)


def layer(kind, bottom="", top="", settings="", name=""):
    """A layer with blobs parted by spaces; it is called as its first top unless it has a ``name``."""
    bottoms = " ".join(f'bottom: "{one}"' for one in bottom.split())
    tops = " ".join(f'top: "{one}"' for one in top.split())
    return f'layer {{ name: "{name or top.split()[0]}" type: "{kind}" {bottoms} {tops} {settings} }}\n'


def image(*shape, name="data"):
    dims = " ".join(f"dim: {size}" for size in shape)
    return layer("Input", "", name, f"input_param {{ shape {{ {dims} }} }}")


def conv(bottom, top, settings="num_output: 4 kernel_size: 3", more=""):
    return layer("Convolution", bottom, top, f"convolution_param {{ {settings} }} {more}")


def padded(bottom, top, width=4, kernel=3, stride=1):
    """A convolution that keeps the size of its input, but for a ``stride``."""
    return conv(bottom, top, f"num_output: {width} kernel_size: {kernel} stride: {stride} pad: {kernel // 2}")


def ip(bottom, top, classes=3, more=""):
    return layer("InnerProduct", bottom, top, f"inner_product_param {{ num_output: {classes} }} {more}")


def data(phase="TRAIN", transform="crop_size: 8", top="data label", kind="Data"):
    return layer(kind, "", top, f"transform_param {{ {transform} }} data_param {{ source: \"here\" batch_size: 4 "
                 f"backend: LMDB }} include {{ phase: {phase} }}", "data")


HEAD = conv("data", "conv") + layer("ReLU", "conv", "conv", name="relu") + ip("conv", "fc")
LOSS = layer("SoftmaxWithLoss", "fc label", "loss")


def names(net):
    """The names of a net's layers, with their types."""
    return [f"{one.name}:{one.type}" for one in net.layer]
