"""InnerProduct and Embed, whose weights meet every value of an item, and Parameter, which is a weight itself."""

from __future__ import annotations

from typing import Any

from prototxt_gen.export.reference.registry import Step, layers


@layers.add("InnerProduct")
def inner_product(step: Step) -> Any:
    """x W^T + b with weights (num_output, K), or x W + b with transposed ones (K, num_output)."""
    param, weights = step.layer.inner_product_param, step.blobs[0]
    matrix = weights if param.transpose else weights.T
    y = (step.x.reshape(-1, matrix.shape[0]) @ matrix).reshape(step.shapes[0])
    return y + step.blobs[1] if param.bias_term else y


@layers.add("Embed")
def embed(step: Step) -> Any:
    """The rows of a table at the indices that x holds, plus a bias."""
    param, index = step.layer.embed_param, step.x.astype(int)
    if index.size and not 0 <= index.min() <= index.max() < param.input_dim:
        raise step.refuse(f"it looks up index {index.max() if index.min() >= 0 else index.min()} of {param.input_dim}")
    y = step.blobs[0][index]
    return y + step.blobs[1] if param.bias_term else y


@layers.add("Parameter")
def parameter(step: Step) -> Any:
    """Its blob."""
    return step.blobs[0]
