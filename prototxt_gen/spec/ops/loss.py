"""Softmax, losses and accuracy. A loss is a scalar: a blob without axes."""

from __future__ import annotations

from typing import Any, List, Sequence

from prototxt_gen.spec.rules import Buffer, Made, Misfit, Place, Shape, rules
from prototxt_gen.spec.shapes import axis_of, count, legacy


@rules.add("Softmax", bottoms=1, tops=1)
def softmax(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Any shape -> same, along ``axis``."""
    return Made(bottoms, buffers=_softmax_buffers(bottoms[0], axis_of(bottoms[0], layer.softmax_param.axis)))


@rules.add("SoftmaxWithLoss", bottoms=2, tops=(1, 2))
def softmax_with_loss(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Scores (outer..., C, inner...) and outer x inner labels -> scalar.

    Caffe 1.0 declares a second top, the softmax, and then refuses every net that has one: it demands a loss_weight for
    each top, and hands both on to an inner Softmax that has one top.
    """
    if len(layer.top) == 2:
        raise Misfit("Caffe cannot set up its second top", "a Softmax layer beside it makes the probabilities")
    scores = bottoms[0]
    axis = axis_of(scores, layer.softmax_param.axis)
    _same_batch(bottoms)
    _one_label_each(bottoms, axis)
    buffers = [Buffer("prob", count(scores)), *_softmax_buffers(scores, axis)]
    return _loss(*buffers)


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


@rules.add("EuclideanLoss", bottoms=2, tops=1)
def euclidean_loss(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Two bottoms of N items of one size -> scalar. Keeps their difference."""
    _same_batch(bottoms)
    if count(bottoms[0], 1) != count(bottoms[1], 1):
        raise Misfit("its bottoms must have as many values an item")
    return _loss(Buffer("difference", count(bottoms[0])))


@rules.add("SigmoidCrossEntropyLoss", bottoms=2, tops=1)
def sigmoid_cross_entropy_loss(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Scores and as many targets -> scalar. Keeps the sigmoid."""
    _same_batch(bottoms)
    if count(bottoms[0]) != count(bottoms[1]):
        raise Misfit("its bottoms must have as many values")
    return _loss(Buffer("sigmoid", count(bottoms[0])))


@rules.add("HingeLoss", bottoms=2, tops=1)
def hinge_loss(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Scores (N, C...) and labels (N...) -> scalar. It works in its bottom's differences."""
    _same_batch(bottoms)
    return _loss()


@rules.add("MultinomialLogisticLoss", bottoms=2, tops=1)
def multinomial_logistic_loss(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Probabilities (N, C...) and labels of one value an item -> scalar."""
    _same_batch(bottoms)
    if count(legacy(bottoms[1]), 1) != 1:
        raise Misfit("its second bottom must hold one label for each item")
    return _loss()


@rules.add("InfogainLoss", bottoms=(2, 3), tops=(1, 2))
def infogain_loss(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Scores (outer..., C, inner...), outer x inner labels and a C x C matrix (or a file of it) -> scalar.

    A second top is the softmax; then each top needs a loss_weight.
    """
    param, scores = layer.infogain_loss_param, bottoms[0]
    axis = axis_of(scores, param.axis)
    _same_batch(bottoms)
    _one_label_each(bottoms, axis)
    classes = scores[axis]
    buffers = [Buffer("prob", count(scores)), *_softmax_buffers(scores, axis), Buffer("row_sums", classes)]
    if layer.loss_param.HasField("normalize"):
        raise Misfit("normalize has no place here: write normalization")
    if len(bottoms) == 3:
        if count(bottoms[2]) != classes * classes:
            raise Misfit(f"its third bottom must hold {classes} x {classes} values")
    elif not param.HasField("source"):
        raise Misfit("it needs a third bottom, or the source of a matrix")
    else:
        buffers.append(Buffer("matrix", classes * classes))
    return Made([(), scores][: max(1, len(layer.top))], buffers=buffers, loss=1)


@rules.add("ContrastiveLoss", bottoms=3, tops=1)
def contrastive_loss(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """Two bottoms (N, C), and whether each pair is alike (N, 1) -> scalar. Keeps differences and distances."""
    _same_batch(bottoms)
    first, second, alike = map(legacy, bottoms)
    if first[1] != second[1] or any(shape[2:] != (1, 1) for shape in (first, second, alike)) or alike[1] != 1:
        raise Misfit("its bottoms must be (N, C), (N, C) and (N, 1)")
    return _loss(Buffer("difference", first[0] * first[1]), Buffer("distance", first[0]), Buffer("ones", first[1]))


def _loss(*buffers: Buffer) -> Made:
    return Made([()], buffers=buffers, loss=1)


def _softmax_buffers(shape: Shape, axis: int) -> List[Buffer]:
    return [Buffer("sum_multiplier", shape[axis]), Buffer("scale", count(shape, 0, axis) * count(shape, axis + 1))]


def _same_batch(bottoms: Sequence[Shape]) -> None:
    if not bottoms[0] or not bottoms[1] or bottoms[0][0] != bottoms[1][0]:
        raise Misfit("its first two bottoms must have the same first axis")


def _one_label_each(bottoms: Sequence[Shape], axis: int) -> None:
    wanted = count(bottoms[0], 0, axis) * count(bottoms[0], axis + 1)
    if count(bottoms[1]) != wanted:
        raise Misfit(f"it wants {wanted} labels, one for each prediction along axis {axis}")
