"""Recurrent layers: T time steps of N streams, H hidden units.

cont (T, N) is 0 where a sequence begins, and takes what the hidden state carries over out of the sums.
"""

from __future__ import annotations

from typing import Any, List, Tuple

from prototxt_gen.export.reference.elementwise import sigmoid
from prototxt_gen.export.reference.registry import Step, layers


@layers.add("LSTM")
def lstm(step: Step) -> Any:
    """gates = W_xc x + b_c + [W_xs x_static] + W_hc (cont h); i, f, o = sigmoid, g = tanh of their four parts;

    c' = cont f c + i g; h' = o tanh(c'). With expose_hidden the states are bottoms and tops.
    """
    import numpy as np

    cont, from_x, (h, c) = _start(step, states=2)
    hidden = []
    for t, gates in enumerate(from_x):
        again = cont[t][:, None]
        c, h = _lstm_unit(c, gates + (again * h) @ step.blobs[-1].T, again)
        hidden.append(h)
    return [np.stack(hidden), h[None], c[None]][:len(step.layer.top)]


@layers.add("LSTMUnit")
def lstm_unit(step: Step) -> Any:
    """One step: c (1, N, H), gates (1, N, 4 H), cont (1, N) -> c, h."""
    c, gates, cont = step.bottoms
    return list(_lstm_unit(c, gates, cont[..., None]))


def _lstm_unit(c: Any, gates: Any, cont: Any) -> Tuple[Any, Any]:
    import numpy as np

    i, f, o, g = np.split(gates, 4, -1)
    c = cont * sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return c, sigmoid(o) * np.tanh(c)


@layers.add("RNN")
def rnn(step: Step) -> Any:
    """h' = tanh(W_xh x + b_h + [W_xs x_static] + W_hh (cont h)); o = tanh(W_ho h' + b_o)."""
    import numpy as np

    cont, from_x, (h,) = _start(step, states=1)
    w_hh, w_ho, b_o = step.blobs[-3:]
    out = []
    for t, summed in enumerate(from_x):
        h = np.tanh(summed + (cont[t][:, None] * h) @ w_hh.T)
        out.append(np.tanh(h @ w_ho.T + b_o))
    return [np.stack(out), h[None]][:len(step.layer.top)]


def _start(step: Step, states: int) -> Tuple[Any, Any, List[Any]]:
    """Return cont, what x adds to the sums of each step (T, N, ...), and the states (N, H) at the start."""
    import numpy as np

    param = step.layer.recurrent_param
    x, cont, *rest = step.bottoms
    exposed = states if param.expose_hidden else 0
    steps, streams = x.shape[:2]
    from_x = x.reshape(steps, streams, -1) @ step.blobs[0].T + step.blobs[1]
    if len(rest) > exposed:
        from_x = from_x + rest.pop(0).reshape(streams, -1) @ step.blobs[2].T
    start = [state[0] for state in rest] or [np.zeros((streams, param.num_output), x.dtype)] * states
    return cont, from_x, start
