"""Lint rules on shapes, as the layer rules of ``spec.ops`` infer them.

They rest where the size of the data stands in no prototxt.
"""

from __future__ import annotations

from typing import Iterator, Tuple

from prototxt_gen.check.lint import NET, Hit, registry
from prototxt_gen.check.lint_view import NetView
from prototxt_gen.spec.infer import format_shape


@registry.add(
    "PG201", "shape-misfit", about=NET,
    checks="every layer can be set up on the shapes that it reads",
    why="Caffe aborts while it builds the net, with a line of C++ in place of a reason: sums of unequal shapes, "
        "channels that do not divide into groups, axes that are not there, a wrong number of bottoms.",
    mend="Follow the shapes upwards with prototxt-gen summary to the layer that makes the wrong one.",
    bad="shape { dim: 1 dim: 16 dim: 8 dim: 8 }",
    good="shape { dim: 1 dim: 8 dim: 8 dim: 8 }",
)
def shape_misfit(view: NetView) -> Iterator[Hit]:
    larger = {index for index, _, _ in _larger_windows(view)}
    for index, misfit in view.misfits.items():
        layer = view.layers[index]
        if index in larger:  # told by the rule on windows
            continue
        shapes = zip(layer.bottom, view.bottom_shapes(index))
        reads = ", ".join(f"'{name}' {format_shape(shape)}" for name, shape in shapes)
        message = f"{view.label(index)}: {misfit}" + (f"; it reads {reads}" if reads else "")
        yield Hit(view.paths[index], message, misfit.hint, layer.name)


@registry.add(
    "PG202", "window-larger-than-input", about=NET,
    checks="no pooling window is larger than its padded input",
    why="The plane has shrunk more than the author thought: the input is smaller than the net was made for, or a "
        "stride is too many. Caffe then makes an empty blob without a word, or pools over less than was asked for; "
        "it aborts only where a size turns negative.",
    mend="Use global_pooling: true for the last pooling, a smaller kernel, or a larger input.",
    bad="kernel_size: 9",
    good="kernel_size: 8",
)
def window_larger_than_input(view: NetView) -> Iterator[Hit]:
    for index, window, plane in _larger_windows(view):
        message = f"{view.label(index)} pools over {window}, and its padded input is {plane}"
        hint = "global_pooling: true takes the whole plane, whatever its size"
        yield Hit(f"{view.paths[index]}.pooling_param", message, hint, view.layers[index].name)


def _larger_windows(view: NetView) -> Iterator[Tuple[int, str, str]]:
    """Yield (layer number, window, padded plane) for each pooling whose window is larger than its plane."""
    for index, layer in enumerate(view.layers):
        if layer.type != "Pooling" or layer.pooling_param.global_pooling:
            continue
        param = layer.pooling_param
        height, width = param.kernel_h or param.kernel_size, param.kernel_w or param.kernel_size
        pad_h, pad_w = param.pad_h or param.pad, param.pad_w or param.pad
        for shape in view.bottom_shapes(index)[:1]:
            if shape is None or len(shape) != 4:
                continue
            plane_h, plane_w = shape[2] + 2 * pad_h, shape[3] + 2 * pad_w
            if height > plane_h or width > plane_w:
                yield index, f"{height}x{width}", f"{plane_h}x{plane_w}"
