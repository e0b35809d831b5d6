"""Softmax, losses and accuracy. A loss is a scalar: a blob without axes."""

from __future__ import annotations

from typing import Any, List, Sequence

from prototxt_gen.spec.infer import Buffer, Made, Misfit, Place, Shape, rules
from prototxt_gen.spec.shapes import axis_of, count


@rules.add("Softmax", bottoms=1, tops=1)
def softmax(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Any shape -> same, along ``axis``."""
    return Made(bottoms, buffers=_softmax_buffers(bottoms[0], axis_of(bottoms[0], layer.softmax_param.axis)))


@rules.add("SoftmaxWithLoss", bottoms=2, tops=(1, 2))
def softmax_with_loss(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Scores (outer..., C, inner...) and outer x inner labels -> scalar; a second top is the softmax."""
    scores = bottoms[0]
    axis = axis_of(scores, layer.softmax_param.axis)
    _same_batch(bottoms)
    _one_label_each(bottoms, axis)
    buffers = [Buffer("prob", count(scores)), *_softmax_buffers(scores, axis)]
    return Made([(), scores][: max(1, len(layer.top))], buffers=buffers, loss=1)


@rules.add("Accuracy", bottoms=2, tops=(1, 2))
def accuracy(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Scores (outer..., C, inner...) and outer x inner labels -> scalar; a second top holds each class's: (C,)."""
    param, scores = layer.accuracy_param, bottoms[0]
    axis = axis_of(scores, param.axis)
    _one_label_each(bottoms, axis)
    if param.top_k > scores[axis]:
        raise Misfit(f"top_k is {param.top_k}, and there are {scores[axis]} classes")
    per_class = (scores[axis],)
    buffers = [Buffer("class_counts", scores[axis])] if len(layer.top) > 1 else []
    return Made([(), per_class][: len(layer.top)], buffers=buffers)


def _softmax_buffers(shape: Shape, axis: int) -> List[Buffer]:
    return [Buffer("sum_multiplier", shape[axis]), Buffer("scale", count(shape, 0, axis) * count(shape, axis + 1))]


def _same_batch(bottoms: Sequence[Shape]) -> None:
    if not bottoms[0] or not bottoms[1] or bottoms[0][0] != bottoms[1][0]:
        raise Misfit("its first two bottoms must have the same first axis")


def _one_label_each(bottoms: Sequence[Shape], axis: int) -> None:
    wanted = count(bottoms[0], 0, axis) * count(bottoms[0], axis + 1)
    if count(bottoms[1]) != wanted:
        raise Misfit(f"it wants {wanted} labels, one for each prediction along axis {axis}")
