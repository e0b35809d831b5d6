"""Recurrent layers, which Caffe unrolls into nets of their own: T time steps of N streams, H hidden units."""

from __future__ import annotations

from typing import Any, Sequence

from prototxt_gen.spec.rules import Buffer, Made, Misfit, Param, Place, Shape, rules
from prototxt_gen.spec.shapes import count


@rules.add("LSTM", bottoms=(2, 5), tops=(1, 3))
def lstm(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """x (T, N, D...), cont (T, N), [x_static (N, S...)] -> h (T, N, H).

    With expose_hidden also h_0 and c_0, each (1, N, H), as last bottoms and h_T and c_T as last tops.
    Blobs: W_xc (4H, D), b_c (4H,), [W_xc_static (4H, S)], W_hc (4H, H). MACs: one per weight for each step and stream,
    the static ones once for each stream.
    """
    sizes = _Sizes(layer, bottoms, states=2)
    gates = 4 * sizes.hidden
    params = [Param((gates, sizes.inner)), Param((gates,))]
    if sizes.static:
        params.append(Param((gates, sizes.static)))
    params.append(Param((gates, sizes.hidden)))
    macs = sizes.cells * gates * (sizes.inner + sizes.hidden) + sizes.streams * gates * sizes.static
    # Gates: of x, cut by step, of h, their sum, activated. Hidden: h after cont, and c and h of every step.
    unrolled = sizes.cells * (5 * gates + 3 * sizes.hidden) + sizes.streams * 2 * sizes.hidden
    unrolled += sizes.streams * gates if sizes.static else 0
    return Made(sizes.tops, params, macs, [*_both("unrolled", unrolled), Buffer("bias_multiplier", sizes.cells)])


@rules.add("RNN", bottoms=(2, 4), tops=(1, 2))
def rnn(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """x (T, N, D...), cont (T, N), [x_static (N, S...)] -> o (T, N, H).

    With expose_hidden also h_0 (1, N, H) as last bottom and h_T as last top.
    Blobs: W_xh (H, D), b_h (H,), [W_xh_static (H, S)], W_hh (H, H), W_ho (H, H), b_o (H,). MACs as for LSTM.
    """
    sizes = _Sizes(layer, bottoms, states=1)
    hidden = sizes.hidden
    params = [Param((hidden, sizes.inner)), Param((hidden,))]
    if sizes.static:
        params.append(Param((hidden, sizes.static)))
    params += [Param((hidden, hidden)), Param((hidden, hidden)), Param((hidden,))]
    macs = sizes.cells * hidden * (sizes.inner + 2 * hidden) + sizes.streams * hidden * sizes.static
    # W x, cut by step; h after cont, W h, their sum, h; W_ho h, and o of every step.
    unrolled = 8 * sizes.cells * hidden + sizes.streams * hidden * (2 if sizes.static else 1)
    return Made(sizes.tops, params, macs, [*_both("unrolled", unrolled), Buffer("bias_multiplier", 2 * sizes.cells)])


@rules.add("LSTMUnit", bottoms=3, tops=2)
def lstm_unit(layer: Any, bottoms: Sequence[Shape], place: Place) -> Made:
    """One step: c (1, N, H), gates (1, N, 4H), cont (1, N) -> c (1, N, H), h (1, N, H). Keeps the gates, activated."""
    cell, gates, cont = bottoms
    if len(cell) != 3 or cell[0] != 1 or gates != (1, cell[1], 4 * cell[2]) or cont != (1, cell[1]):
        raise Misfit("its bottoms must be (1, N, H), (1, N, 4H) and (1, N)")
    return Made([cell, cell], buffers=_both("gates", count(gates)))


class _Sizes:
    """The sizes of a recurrent layer: ``cells`` is T x N, ``inner`` D, ``static`` S or 0."""

    def __init__(self, layer: Any, bottoms: Sequence[Shape], states: int) -> None:
        self.hidden = layer.recurrent_param.num_output
        exposed = states if layer.recurrent_param.expose_hidden else 0
        if not self.hidden:
            raise Misfit("num_output is 0 or missing")
        if not 2 + exposed <= len(bottoms) <= 3 + exposed:
            raise Misfit(f"it takes {2 + exposed} or {3 + exposed} bottoms, not {len(bottoms)}")
        if len(layer.top) != 1 + exposed:
            raise Misfit(f"it makes {1 + exposed} tops, not {len(layer.top)}" if exposed else "it makes one top")
        x, cont, *rest = bottoms
        if len(x) < 3 or min(x[:2]) < 1:
            raise Misfit("its first bottom must be (T, N, D...)")
        if cont != x[:2]:
            raise Misfit("its second bottom must be (T, N), as the first begins")
        self.cells, self.streams, self.inner, self.static = count(x[:2]), x[1], count(x, 2), 0
        if len(rest) > exposed:
            static = rest.pop(0)
            self.static = count(static, 1)
            if len(static) < 2 or static[0] != self.streams or not self.static:
                raise Misfit("its third bottom must be (N, S...)")
        state = (1, self.streams, self.hidden)
        if any(shape != state for shape in rest):
            raise Misfit(f"its hidden states must be (1, {self.streams}, {self.hidden})")
        self.tops = [(*x[:2], self.hidden), *[state] * exposed]


def _both(name: str, values: int) -> Sequence[Buffer]:
    return [Buffer(name, values), Buffer(f"{name}_diff", values, diff=True)]
