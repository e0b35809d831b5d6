"""Layers that work value by value, and Eltwise over several bottoms."""

from __future__ import annotations

from typing import Any, Sequence

from prototxt_gen.spec.rules import Buffer, Made, Misfit, Param, Place, Shape, rules
from prototxt_gen.spec.shapes import count, legacy, not_in_place, plural


@rules.add("AbsVal", bottoms=1, tops=1)
def abs_val(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Any shape -> same."""
    not_in_place(layer)
    return Made(bottoms)


@rules.add("BNLL", "Clip", "ELU", "Exp", "Log", "Power", "ReLU", "Sigmoid", "TanH", "Threshold",
           bottoms=1, tops=1)
def neuron(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Any shape -> same."""
    return Made(bottoms)


@rules.add("Swish", bottoms=1, tops=1)
def swish(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Any shape -> same. Keeps beta x and its sigmoid."""
    values = count(bottoms[0])
    return Made(bottoms, buffers=[Buffer("sigmoid_input", values), Buffer("sigmoid_output", values)])


@rules.add("Dropout", bottoms=1, tops=1)
def dropout(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Any shape -> same. While training it keeps which values it dropped."""
    return Made(bottoms, buffers=[Buffer("mask", count(bottoms[0]))] if place.is_train else [])


@rules.add("PReLU", bottoms=1, tops=1)
def prelu(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """(N, C, H, W) or fewer axes -> same. Blob: slope (C,), or a scalar for all. In place it keeps its bottom."""
    shape = bottoms[0]
    if len(shape) < 2:
        raise Misfit("its bottom must have at least 2 axes (N, C, ...)")
    legacy(shape)
    buffers = [Buffer("multiplier", count(shape, 1))]
    if layer.bottom[0] == layer.top[0]:
        buffers.append(Buffer("bottom_copy", count(shape)))
    return Made(bottoms, [Param(() if layer.prelu_param.channel_shared else (shape[1],))], buffers=buffers)


@rules.add("Eltwise", bottoms=(2, None), tops=1)
def eltwise(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Bottoms of one shape -> that shape. MAX keeps which bottom won."""
    param = layer.eltwise_param
    if any(shape != bottoms[0] for shape in bottoms):
        raise Misfit("its bottoms must have one shape")
    if param.coeff and len(param.coeff) != len(bottoms):
        raise Misfit(f"it has {plural(len(param.coeff), 'coeff')} for {len(bottoms)} bottoms")
    if param.coeff and param.operation == param.PROD:
        raise Misfit("coeff belongs to operation SUM, not PROD")
    return Made(bottoms[:1], buffers=[Buffer("max_index", count(bottoms[0]))] if param.operation == param.MAX else [])
