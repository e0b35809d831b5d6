"""Layers whose weights meet every value of an item, and Parameter."""

from __future__ import annotations

from prototxt_gen.export.onnx_ops.layer import Layer, converters, merged


@converters.add("InnerProduct")
def inner_product(layer: Layer) -> str:
    """Gemm of the bottom as a matrix (outer, K) with weights (num_output, K), or (K, num_output) where transposed."""
    param, bottom, top = layer.proto.inner_product_param, layer.bottoms[0], layer.tops[0]
    axis = param.axis % len(bottom.shape)
    x = layer.x
    if axis != 1 or len(bottom.shape) != 2:
        x = layer.op("Flatten", x, axis=axis)
    inputs = [layer.floats(role, blob) for role, blob in zip(("weights", "bias"), layer.blobs)]
    y = layer.op("Gemm", x, *inputs, transB=int(not param.transpose))
    return layer.reshape(y, (merged(bottom.dims[:axis]), param.num_output), top.dims)


@converters.add("Embed")
def embed(layer: Layer) -> str:
    """Rows of the table, gathered by index."""
    rows = layer.op("Cast", layer.x, to=7)
    y = layer.op("Gather", layer.floats("table", layer.blobs[0]), rows, axis=0)
    return layer.op("Add", y, layer.floats("bias", layer.blobs[1])) if len(layer.blobs) > 1 else y


@converters.add("Parameter")
def parameter(layer: Layer) -> str:
    """The blob itself."""
    return layer.floats("value", layer.blobs[0])
