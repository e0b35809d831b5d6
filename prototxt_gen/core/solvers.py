"""Facts of Caffe's solvers: types, learning policies, and the nets that a solver uses, with their states."""

from __future__ import annotations

from typing import Any, Iterator, List, NamedTuple, Optional, Tuple

from prototxt_gen.core.graph import TEST, TRAIN, net_state

# In the order of the older enum.
SOLVER_TYPES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")
# Arrays of a parameter's size that each type keeps from one iteration to the next, in its snapshots, too.
HISTORY_ARRAYS = {"SGD": 1, "Nesterov": 1, "AdaGrad": 1, "RMSProp": 1, "AdaDelta": 2, "Adam": 2}
WITHOUT_MOMENTUM = ("AdaGrad", "RMSProp")  # types that abort when momentum is not 0
# The fields that each policy of the learning rate reads; Caffe takes 0 for one that is not given.
POLICIES = {
    "fixed": (),
    "step": ("gamma", "stepsize"),
    "exp": ("gamma",),
    "inv": ("gamma", "power"),
    "multistep": ("gamma", "stepvalue"),
    "poly": ("power", "max_iter"),
    "sigmoid": ("gamma", "stepsize"),
}


class NetUse(NamedTuple):
    """One net that Caffe instantiates for a solver.

    ``path`` is the field that names it, ``value`` the file or the NetParameter there, ``state`` the solver's own
    train_state or test_state, if it has one.
    """

    path: str
    value: Any
    phase: int
    state: Optional[Any]


def net_uses(solver: Any) -> Iterator[NetUse]:
    """Yield the nets that Caffe instantiates: for training, then for tests, in the order of test_iter.

    A net of both phases serves the tests that no test net is named for.
    """
    train_state = solver.train_state if solver.HasField("train_state") else None
    for field in ("train_net", "train_net_param", "net", "net_param"):
        if solver.HasField(field):
            yield NetUse(field, getattr(solver, field), TRAIN, train_state)
    tests: List[Tuple[str, Any]] = [(f"test_net_param[{i}]", one) for i, one in enumerate(solver.test_net_param)]
    tests += [(f"test_net[{i}]", one) for i, one in enumerate(solver.test_net)]
    named = len(tests)
    for field in ("net", "net_param"):
        if solver.HasField(field):
            tests += [(field, getattr(solver, field))] * (len(solver.test_iter) - named)
    states = list(solver.test_state) if len(solver.test_state) == len(tests) else [None] * len(tests)
    for (path, value), state in zip(tests, states):
        yield NetUse(path, value, TEST, state)


def used_state(phase: int, net: Any, state: Optional[Any], *, phase_is_fixed: bool) -> Any:
    """Return the NetState that Caffe settles on: the phase of the use, then what the net says, then the solver's state.

    Caffe lets net and state overrule the phase; ``phase_is_fixed`` keeps it.
    """
    merged = net_state(phase, net)
    if net.state.HasField("phase"):
        merged.phase = net.state.phase
    if state is not None:
        merged.MergeFrom(state)
    if phase_is_fixed:
        merged.phase = phase
    return merged
