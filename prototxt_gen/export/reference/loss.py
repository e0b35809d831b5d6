"""Losses and accuracy, each a scalar. What a blob named by a loss holds is not multiplied by loss_weight.

A loss over labels sums over all positions but those whose label is ``ignore_label``, and divides by (normalization)
FULL all positions, VALID those that count, BATCH_SIZE the items, NONE 1; by 1 at least.
"""

from __future__ import annotations

import math
from typing import Any, Tuple

from prototxt_gen.export.reference.normalise import softmax_of
from prototxt_gen.export.reference.registry import Step, layers

SMALLEST = 1.1754943508222875e-38  # FLT_MIN: the least probability that SoftmaxWithLoss takes a logarithm of
LOG_THRESHOLD = 1e-20  # the least one of MultinomialLogisticLoss and InfogainLoss


@layers.add("SoftmaxWithLoss")
def softmax_with_loss(step: Step) -> Any:
    """Minus the logarithm of the probability of each label."""
    import numpy as np

    scores, label, counts, outer = by_position(step, step.layer.softmax_param.axis)
    probability = np.take_along_axis(softmax_of(scores, 1), label[:, None], 1)[:, 0]
    loss = -np.log(np.maximum(probability, SMALLEST)).sum(where=counts, dtype=np.float64)
    return loss / normaliser(step, counts, outer, "VALID")


@layers.add("InfogainLoss")
def infogain_loss(step: Step) -> Any:
    """Minus the logarithms of all probabilities, weighted by the row of a matrix that belongs to the label."""
    import numpy as np

    if len(step.bottoms) < 3:
        raise step.refuse("its matrix stands in a file, which the numpy engine does not read",
                          "give the matrix as a third bottom")
    axis = step.layer.infogain_loss_param.axis
    scores, label, counts, outer = by_position(step, axis)
    rows = step.bottoms[2].reshape(scores.shape[1], -1)[label]
    logs = np.log(np.maximum(softmax_of(scores, 1), LOG_THRESHOLD))
    loss = -(rows * logs).sum(1, dtype=np.float64).sum(where=counts)
    tops = [loss / normaliser(step, counts, outer, "VALID"), softmax_of(step.x, axis)]
    return tops[:max(1, len(step.layer.top))]


@layers.add("Accuracy")
def accuracy(step: Step) -> Any:
    """Share of labels among the top_k scores, equal ones counted against them; a second top has that of each class."""
    import numpy as np

    param = step.layer.accuracy_param
    scores, label, counts, _ = by_position(step, param.axis)
    own = np.take_along_axis(scores, label[:, None], 1)
    right = counts & ((scores >= own).sum(1) <= param.top_k)
    tops = [right.sum() / max(counts.sum(), 1)]
    if len(step.layer.top) > 1:
        classes = np.arange(scores.shape[1])[:, None]
        of_class = (label == classes) & counts
        tops.append((of_class & right).sum(1) / np.maximum(of_class.sum(1), 1))
    return tops


def by_position(step: Step, axis: int) -> Tuple[Any, Any, Any, int]:
    """Return scores (positions, C), labels (positions,), which of them count, and the size of the axes before C."""
    import numpy as np

    param = step.layer.accuracy_param if step.layer.type == "Accuracy" else step.layer.loss_param
    x, axis = step.x, axis % step.x.ndim
    scores = np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])
    label = step.bottoms[1].reshape(-1).astype(int)
    counts = np.ones(label.shape, bool)
    if param.HasField("ignore_label"):
        counts = label != param.ignore_label
    label = np.where(counts, label, 0)
    if label.size and not 0 <= label.min() <= label.max() < scores.shape[1]:
        raise step.refuse(f"there are labels from {label.min()} to {label.max()}, and {scores.shape[1]} classes")
    return scores, label, counts, math.prod(x.shape[:axis])


def normaliser(step: Step, counts: Any, outer: int, default: str) -> float:
    """Return what a sum over labels is divided by."""
    param = step.layer.loss_param
    mode = param.NormalizationMode.Value(default)
    if param.HasField("normalization"):
        mode = param.normalization
    elif param.HasField("normalize"):
        mode = param.VALID if param.normalize else param.BATCH_SIZE
    return max(1, {param.FULL: counts.size, param.VALID: counts.sum(), param.BATCH_SIZE: outer, param.NONE: 1}[mode])


@layers.add("SigmoidCrossEntropyLoss")
def sigmoid_cross_entropy_loss(step: Step) -> Any:
    """-(t log s + (1 - t) log(1 - s)) of the sigmoid s of each score and its target t, by items unless told."""
    import numpy as np

    x, target, param = step.x, step.bottoms[1].reshape(step.x.shape), step.layer.loss_param
    counts = np.ones(x.shape, bool)
    if param.HasField("ignore_label"):
        counts = target.astype(int) != param.ignore_label
    loss = np.maximum(x, 0) - x * target + np.log1p(np.exp(-abs(x)))
    return loss.sum(where=counts, dtype=np.float64) / normaliser(step, counts, len(x), "BATCH_SIZE")


@layers.add("EuclideanLoss")
def euclidean_loss(step: Step) -> Any:
    """Half the sum of squared differences, by items."""
    import numpy as np

    difference = step.x - step.bottoms[1].reshape(step.x.shape)
    return np.square(difference).sum(dtype=np.float64) / len(step.x) / 2


@layers.add("HingeLoss")
def hinge_loss(step: Step) -> Any:
    """max(0, 1 - x) of the label's score and max(0, 1 + x) of all others, or their squares (L2), by items."""
    import numpy as np

    x, param = step.x.reshape(len(step.x), -1).copy(), step.layer.hinge_loss_param
    label = step.bottoms[1].reshape(-1)[:len(x)].astype(int)
    if label.size and not 0 <= label.min() <= label.max() < x.shape[1]:
        raise step.refuse(f"there are labels from {label.min()} to {label.max()}, and {x.shape[1]} classes")
    x[np.arange(len(x)), label] *= -1
    margin = np.maximum(0, 1 + x)
    return (np.square(margin) if param.norm == param.L2 else margin).sum(dtype=np.float64) / len(x)


@layers.add("MultinomialLogisticLoss")
def multinomial_logistic_loss(step: Step) -> Any:
    """Minus the logarithm of the probability of each label, by items."""
    import numpy as np

    x = step.x.reshape(len(step.x), -1)
    label = step.bottoms[1].reshape(-1).astype(int)
    if label.size and not 0 <= label.min() <= label.max() < x.shape[1]:
        raise step.refuse(f"there are labels from {label.min()} to {label.max()}, and {x.shape[1]} classes")
    return -np.log(np.maximum(x[np.arange(len(x)), label], LOG_THRESHOLD)).sum(dtype=np.float64) / len(x)


@layers.add("ContrastiveLoss")
def contrastive_loss(step: Step) -> Any:
    """Of pairs at distance d: d^2 for those alike, else max(margin - d, 0)^2, by twice the number of pairs.

    With ``legacy_version`` max(margin - d^2, 0) for those that are not.
    """
    import numpy as np

    param = step.layer.contrastive_loss_param
    square = np.square(step.x - step.bottoms[1].reshape(step.x.shape)).reshape(len(step.x), -1).sum(1, dtype=np.float64)
    if param.legacy_version:
        apart = np.maximum(param.margin - square, 0)
    else:
        apart = np.square(np.maximum(param.margin - np.sqrt(square), 0))
    alike = step.bottoms[2].reshape(-1).astype(int) != 0
    return np.where(alike, square, apart).sum() / len(step.x) / 2
