"""Data that a net makes itself. All other data are given by the caller."""

from __future__ import annotations

from typing import Any

from prototxt_gen.export.reference.registry import Step, layers


@layers.add("DummyData")
def dummy_data(step: Step) -> Any:
    """Tops of one value each; other fillers draw at random."""
    import numpy as np

    fillers = list(step.layer.dummy_data_param.data_filler)
    if len(fillers) < len(step.shapes):
        fillers = fillers * len(step.shapes) if fillers else [None] * len(step.shapes)
    for name, filler in zip(step.layer.top, fillers):
        if filler is not None and filler.type != "constant":
            raise step.refuse(f"it draws '{name}' at random ({filler.type})", f"give an array for '{name}'")
    return [np.full(shape, 0 if filler is None else filler.value) for shape, filler in zip(step.shapes, fillers)]
