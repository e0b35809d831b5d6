"""Convolution and Deconvolution."""

from __future__ import annotations

from typing import Any, List, Sequence, Tuple

from prototxt_gen.export.onnx_ops.layer import Dims, Layer, Tensor, converters, merged


@converters.add("Convolution")
def convolution(layer: Layer) -> List[str]:
    """Conv on (N, C, spatial), each bottom with the same weights."""
    window = _Window(layer)
    # Caffe's size rounds towards 0: a window larger than the padded plane by less than its stride reads zeros behind.
    beyond = [max(0, k + (k - 1) * (d - 1) - size - 2 * p)
              for size, k, d, p in zip(window.plane, window.kernel, window.dilations, window.pads)]
    pads = [*window.pads, *(p + more for p, more in zip(window.pads, beyond))]
    return window.run("Conv", pads)


@converters.add("Deconvolution")
def deconvolution(layer: Layer) -> List[str]:
    """ConvTranspose on (N, C, spatial), each bottom with the same weights."""
    window = _Window(layer)
    return window.run("ConvTranspose", [*window.pads, *window.pads])


class _Window:
    """A convolution's settings, one number per spatial axis; a bottom without any is given one of size 1."""

    def __init__(self, layer: Layer) -> None:
        param = layer.proto.convolution_param
        self.layer, self.group = layer, param.group
        self.axis = param.axis % len(layer.shape)
        self.spatial = len(layer.shape) - self.axis - 1
        self.plane = layer.fixed(layer.bottoms[0], self.axis + 1) or (1,)
        self.kernel = layer.blobs[0].shape[2:] or (1,)
        self.strides = self._per_axis(param.stride, param, "stride_h", "stride_w", 1)
        self.pads = self._per_axis(param.pad, param, "pad_h", "pad_w", 0)
        self.dilations = self._per_axis(param.dilation, param, None, None, 1)

    def _per_axis(self, values: Sequence[int], param: Any, high: Any, wide: Any, default: int) -> Tuple[int, ...]:
        if not self.spatial:
            return (default,)
        if high and (param.HasField(high) or param.HasField(wide)):
            return (getattr(param, high), getattr(param, wide))
        values = list(values) or [default]
        return tuple(values * len(self.plane) if len(values) == 1 else values)

    def run(self, kind: str, pads: List[int]) -> List[str]:
        layer = self.layer
        weights = layer.blobs[0]
        inputs = [layer.floats("weights", weights.reshape(*weights.shape[:2], *self.kernel))]
        if len(layer.blobs) > 1:
            inputs.append(layer.floats("bias", layer.blobs[1]))
        results = []
        for bottom, top in zip(layer.bottoms, layer.tops):
            x = layer.reshape(bottom.name, bottom.dims, self._planes(bottom))
            y = layer.op(kind, x, *inputs, kernel_shape=self.kernel, strides=self.strides, pads=pads,
                         dilations=self.dilations, group=self.group)
            results.append(layer.reshape(y, self._planes(top), top.dims))
        return results

    def _planes(self, tensor: Tensor) -> Dims:
        """Return dims (N, C, spatial): the axes before the channels as one, at least one spatial axis."""
        channels_on = (*tensor.dims[self.axis:], *([] if self.spatial else [1]))
        return (merged(tensor.dims[: self.axis]), *channels_on)
