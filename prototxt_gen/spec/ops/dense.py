"""Layers whose weights meet every value of an item: InnerProduct and Embed; Parameter, which is a weight itself."""

from __future__ import annotations

from typing import Any, Sequence

from prototxt_gen.spec.rules import Buffer, Made, Misfit, Param, Place, Shape, rules
from prototxt_gen.spec.shapes import axis_of, count


@rules.add("InnerProduct", bottoms=1, tops=1)
def inner_product(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """(outer..., K...) -> (outer..., num_output), K... being the axes from ``axis`` on.

    Blobs: weights (num_output, K), transposed (K, num_output); bias (num_output,). MACs: outer x K x num_output.
    """
    param = layer.inner_product_param
    if not param.num_output:
        raise Misfit("num_output is 0 or missing")
    axis = axis_of(bottoms[0], param.axis)
    outer, inner = count(bottoms[0], 0, axis), count(bottoms[0], axis)
    weights = (inner, param.num_output) if param.transpose else (param.num_output, inner)
    params, buffers = [Param(weights)], []
    if param.bias_term:
        params.append(Param((param.num_output,)))
        buffers.append(Buffer("bias_multiplier", outer))
    return Made([(*bottoms[0][:axis], param.num_output)], params, outer * inner * param.num_output, buffers)


@rules.add("Embed", bottoms=1, tops=1)
def embed(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Indices of any shape -> (shape..., num_output). Blobs: table (input_dim, num_output), bias (num_output,).

    Rows are looked up, so there are no MACs.
    """
    param = layer.embed_param
    if not param.num_output or not param.input_dim:
        raise Misfit("num_output and input_dim must be positive")
    params, buffers = [Param((param.input_dim, param.num_output))], []
    if param.bias_term:
        params.append(Param((param.num_output,)))
        buffers.append(Buffer("bias_multiplier", count(bottoms[0])))
    return Made([(*bottoms[0], param.num_output)], params, buffers=buffers)


@rules.add("Parameter", bottoms=0, tops=1)
def parameter(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """() -> the given shape. Blob: the same, and the top stands in its memory."""
    shape = tuple(layer.parameter_param.shape.dim)
    return Made([shape], [Param(shape)])
