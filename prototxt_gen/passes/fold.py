"""fold-bn: BN, BatchNorm and Scale into the Convolution, Deconvolution or InnerProduct beside them, for TEST.

What such a layer computes in TEST is y = a x + c in each channel (``passes.norms``). Case 1, the layer before it makes
x = W u + d:

    W'[o] = a[o] W[o],   d'[o] = a[o] d[o] + c[o]             o: output channel

Case 2, the layer after it computes z = W y + d, and where c is not 0 without padding, whose zeros are no a 0 + c:

    W'[o, i] = W[o, i] a[i],   d'[o] = d[o] + sum W[o, i] c[i]     i: input channel; the sum also over the kernel

Case 1 goes first, and the layer before makes the blob of the one folded into it. In case 2 what a layer in place read
gets a name of its own, as its old name stood for what is no longer there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple

from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import TEST
from prototxt_gen.core.io import Model
from prototxt_gen.passes.base import PassResult, Skipped, registry
from prototxt_gen.passes.chain import Chain, coverage, refuse_shared_writes, refuse_training
from prototxt_gen.passes.norms import Affine, affine, need_bn, statistic_of, why_no_affine
from prototxt_gen.spec.infer import Shape, infer

FOLDED = ("BN", "BatchNorm", "Scale")
CONVOLUTIONS = ("Convolution", "Deconvolution")
BEFORE = (*CONVOLUTIONS, "InnerProduct")
AFTER = ("Convolution", "InnerProduct")


@registry.add("fold-bn")
def fold_bn(model: Model, *, bn_statistic: Optional[str] = None) -> PassResult:
    """Fold every BN, BatchNorm and Scale that has a layer with weights beside it.

    Without weights the structure alone is folded. ``bn_statistic``: what BN's fourth blob holds, "inv-std" or
    "variance"; by default what the dialect says. Raises Error for a net for training, where BN follows each batch.
    """
    if any(layer.type in FOLDED for layer in model.net.layer):
        refuse_training(model.net, "BN follows each batch")
    refuse_shared_writes(model.net)
    need_bn(model, [index for index, layer in enumerate(model.net.layer) if layer.type == "BN"])
    run = _Fold(model, Chain(model), bn_statistic)
    norms = run.chain.indices(*FOLDED)
    counts = {kind: [0, len(run.chain.indices(kind))] for kind in FOLDED}
    names = {index: (run.chain.layers[index].name, run.chain.layers[index].type) for index in norms}
    before = {index: run.into_before(index) for index in norms}
    left = [index for index in norms if before[index]]
    # From the back, so that of a BatchNorm and its Scale the Scale goes first.
    after = {index: run.into_after(index) for index in reversed(left)}
    skipped: List[Skipped] = []
    for index in norms:
        name, kind = names[index]
        if before[index] and after[index]:
            reason = _why(run.chain.layers[index]) or f"before it {before[index]}, after it {after[index]}"
            skipped.append(Skipped(name, reason))
        else:
            counts[kind][0] += 1
    done = {kind: (some, every) for kind, (some, every) in counts.items()}
    return PassResult(run.chain.model(), tuple(run.edits), tuple(skipped), coverage("folded", done))


@dataclass
class _Fold:
    model: Model
    chain: Chain
    bn_statistic: Optional[str]
    edits: List[str] = field(default_factory=list)
    inferred: Optional[Dict[str, Optional[Shape]]] = None  # shapes of first bottoms by layer, where they are needed

    def into_before(self, index: int) -> str:
        """Case 1: fold a layer into the one that makes its bottom. Return what stands there if that cannot be."""
        chain, norm = self.chain, self.chain.layers[index]
        maker = chain.maker(index)
        if maker is None:
            return "an input of the net"
        host = chain.layers[maker]
        if host.type not in BEFORE:
            return f"{host.type}"
        wrong = self._why_no_host(maker) or chain.why_apart(maker, index) or self._why_no_weights(host, norm)
        if wrong or _why(norm):
            return f"{host.type} {wrong}"
        has_shift = _has_shift(norm)
        if norm.name in chain.blobs:
            chain.blobs[host.name] = _before(host, chain.blobs[host.name], self._affine(norm))
        if has_shift:
            _give_bias(host, norm)
        self.edits.append(f"layer '{norm.name}': folded into '{host.name}' before it")
        chain.absorb(maker, index)
        return ""

    def into_after(self, index: int) -> str:
        """Case 2: fold a layer into the only one that reads it. Return what stands there if that cannot be."""
        chain, norm = self.chain, self.chain.layers[index]
        readers = chain.readers(index)
        if len(readers) != 1:
            return f"{len(readers)} layers" if readers else "nothing"
        host = chain.layers[readers[0]]
        if host.type not in AFTER:
            return f"{host.type}"
        wrong = self._why_no_host(readers[0]) or self._why_not_after(index, readers[0])
        wrong = wrong or self._why_no_weights(host, norm)
        if wrong or _why(norm):
            return f"{host.type} {wrong}"
        if chain.in_place(index) and not chain.move_aside(index):
            return f"{host.type}, but in place on an input, or on what others read"
        has_shift = _has_shift(norm)
        if norm.name in chain.blobs:
            chain.blobs[host.name] = _after(host, chain.blobs[host.name], self._affine(norm))
        if has_shift:
            _give_bias(host, norm)
        self.edits.append(f"layer '{norm.name}': folded into '{host.name}' after it")
        bottom = norm.bottom[0]
        chain.remove(index)
        chain.set_bottom(readers[0], bottom)
        return ""

    def _affine(self, norm: Any) -> Affine:
        blobs = self.chain.blobs[norm.name]
        statistic = statistic_of(self.model, self.bn_statistic, norm.name) if norm.type == "BN" else ""
        return affine(norm, blobs, statistic)

    def _why_no_host(self, index: int) -> str:
        host = self.chain.layers[index]
        other = self.chain.shares(index)
        if other is not None:
            return "with shared weights"
        if len(host.bottom) != 1 or len(host.top) != 1:
            return "with several bottoms"
        if _param(host).axis != 1:
            return "along another axis"
        return ""

    def _why_not_after(self, index: int, reader: int) -> str:
        chain, norm, host = self.chain, self.chain.layers[index], self.chain.layers[reader]
        if not chain.same_rules(index, reader):
            return "of other phases"
        if chain.rewritten(norm.bottom[0], index, reader):
            return "that comes after a change of what it would read"
        if host.type == "Convolution" and _has_shift(norm):
            if _pads(host.convolution_param):
                return "with padding"
            if self._overhangs(host):
                return "with a window larger than its plane"
        return ""

    def _overhangs(self, host: Any) -> bool:
        """True where Caffe lets a window reach beyond the plane: it rounds towards 0, by less than a stride."""
        param = host.convolution_param
        if max([1, param.stride_h, param.stride_w, *param.stride]) == 1:
            return False
        extent = (max([param.kernel_h, param.kernel_w, *param.kernel_size]) - 1) * max([1, *param.dilation]) + 1
        if self.inferred is None:
            self.inferred = _bottom_shapes(self.model.net)
        shape = self.inferred.get(host.name)
        return shape is not None and any(size < extent for size in shape[2:])

    def _why_no_weights(self, host: Any, norm: Any) -> str:
        held = (host.name in self.chain.blobs, norm.name in self.chain.blobs)
        return "" if held in ((True, True), (False, False)) else "with weights for one of the two only"


def _bottom_shapes(net: Any) -> Dict[str, Optional[Shape]]:
    """Return the shape of each layer's first bottom; empty where shapes cannot be inferred."""
    try:
        layers = infer(net, TEST, allow_unknown=True).layers
    except Error:
        return {}
    return {one.name: one.bottom_shapes[0] for one in layers if one.bottom_shapes}


def _why(norm: Any) -> str:
    return "it has a loss weight" if any(norm.loss_weight) else why_no_affine(norm)


def _has_shift(norm: Any) -> bool:
    return norm.type != "Scale" or norm.scale_param.bias_term


def _param(host: Any) -> Any:
    return host.inner_product_param if host.type == "InnerProduct" else host.convolution_param


def _pads(param: Any) -> bool:
    return any(param.pad) or bool(param.pad_h or param.pad_w)


def _give_bias(host: Any, norm: Any) -> None:
    """Let a layer have a bias; where its weights have learning rates, the bias takes those of the folded layer's."""
    param = _param(host)
    if param.bias_term:
        return
    param.ClearField("bias_term")
    rates = norm.param[1:2] if norm.type != "BatchNorm" else []
    if len(host.param) == 1 and rates:
        host.param.extend(rates)
        host.param[1].ClearField("name")


def _before(host: Any, blobs: Tuple[Any, ...], norm: Affine) -> Tuple[Any, ...]:
    """Case 1. Weights: Convolution (out, C / g, kernel), Deconvolution (C, out / g, kernel), InnerProduct (out, K)."""
    W, d, param = *_weights(host, blobs), _param(host)
    a, c, out = norm.scale, norm.shift, param.num_output
    _check_channels(host, out, a)
    if host.type == "Deconvolution":
        grouped = W.reshape(param.group, -1, out // param.group, W[0, 0].size)
        W = (grouped * a.reshape(param.group, 1, -1, 1)).reshape(W.shape)
    elif host.type == "InnerProduct" and param.transpose:
        W = (W.reshape(-1, out) * a).reshape(W.shape)
    else:
        W = (W.reshape(out, -1) * a[:, None]).reshape(W.shape)
    if d is not None:
        d = a * d
    if c is not None:
        d = c if d is None else d + c
    return _as(blobs, W, d)


def _after(host: Any, blobs: Tuple[Any, ...], norm: Affine) -> Tuple[Any, ...]:
    """Case 2. InnerProduct reads K = C x plane values."""
    W, d, param = *_weights(host, blobs), _param(host)
    a, c, out = norm.scale, norm.shift, param.num_output
    group = param.group if host.type == "Convolution" else 1
    transposed = host.type == "InnerProduct" and param.transpose
    rows = W.reshape(-1, out).T if transposed else W.reshape(out, -1)
    channels = W.shape[1] * group if host.type == "Convolution" else a.size
    if channels != a.size or rows.shape[1] * group % channels:
        _check_channels(host, channels if host.type == "Convolution" else rows.shape[1], a)
    parts = rows.reshape(group, out // group, channels // group, -1)
    if c is not None:
        shift = (parts * c.reshape(group, 1, -1, 1)).sum(axis=(2, 3)).reshape(out)
        d = shift if d is None else d + shift
    rows = (parts * a.reshape(group, 1, -1, 1)).reshape(rows.shape)
    return _as(blobs, (rows.T if transposed else rows).reshape(W.shape), d)


def _weights(host: Any, blobs: Tuple[Any, ...]) -> Tuple[Any, Any]:
    """Return a layer's weights and its bias as a vector or None, in float64."""
    import numpy as np

    number = 1 + _param(host).bias_term
    if len(blobs) != number:
        what = f"{host.type} has {number} blobs here, and the weights hold {len(blobs)}"
        raise Error(what, f"layer '{host.name}'")
    W, out, group = np.asarray(blobs[0], dtype=np.float64), _param(host).num_output, 1
    filters = W.size
    if host.type in CONVOLUTIONS:
        group = host.convolution_param.group
        filters = W.shape[0] if host.type == "Convolution" else W.shape[1] * group
    if not out or filters != out and host.type in CONVOLUTIONS or filters % out or out % group:
        raise Error(f"its weights {W.shape} do not fit num_output {out}", f"layer '{host.name}'")
    return W, np.asarray(blobs[1], dtype=np.float64).reshape(-1) if number == 2 else None


def _as(blobs: Tuple[Any, ...], W: Any, d: Any) -> Tuple[Any, ...]:
    """Return new blobs in the form of the old ones."""
    dtype = blobs[0].dtype
    if d is None:
        return (W.astype(dtype),)
    return W.astype(dtype), d.astype(dtype).reshape(blobs[1].shape if len(blobs) > 1 else (-1,))


def _check_channels(host: Any, channels: int, a: Any) -> None:
    if channels != a.size:
        raise Error(f"it has {channels} channels, and the layer beside it {a.size}", f"layer '{host.name}'")
