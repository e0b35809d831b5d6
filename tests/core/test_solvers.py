"""Which nets a solver uses, in which states."""

import pytest

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.graph import TEST, TRAIN
from prototxt_gen.core.io import loads
from prototxt_gen.core.solvers import net_uses, used_state

SolverParameter = DEFAULT_DIALECT.message("SolverParameter")
NetParameter = DEFAULT_DIALECT.message("NetParameter")
NetState = DEFAULT_DIALECT.message("NetState")


def uses(text):
    """Each use as (field, phase, stages of the solver's own state)."""
    return [(use.path, use.phase, list(use.state.stage) if use.state is not None else None)
            for use in net_uses(loads(text, SolverParameter))]


@pytest.mark.parametrize("text, expected", [
    ("", []),
    ('net: "a"', [("net", TRAIN, None)]),
    ('net: "a" test_iter: 1 test_iter: 2', [("net", TRAIN, None), ("net", TEST, None), ("net", TEST, None)]),
    ('train_net: "a" test_net: "b" test_net: "c" test_iter: 1 test_iter: 1',
     [("train_net", TRAIN, None), ("test_net[0]", TEST, None), ("test_net[1]", TEST, None)]),
    ('net_param { } test_net: "b" test_net_param { } test_iter: 1 test_iter: 1 test_iter: 1 train_state { stage: "t" } '
     'test_state { stage: "1" } test_state { stage: "2" } test_state { stage: "3" }',
     [("net_param", TRAIN, ["t"]), ("test_net_param[0]", TEST, ["1"]), ("test_net[0]", TEST, ["2"]),
      ("net_param", TEST, ["3"])]),
    ('net: "a" test_iter: 1 test_state { } test_state { }', [("net", TRAIN, None), ("net", TEST, None)]),
])
def test_nets_in_the_order_in_which_caffe_makes_them(text, expected):
    assert uses(text) == expected


def test_who_settles_the_state():
    net = loads('state { phase: TRAIN level: 2 stage: "net" }', NetParameter)
    own = loads('stage: "own" level: 3', NetState)
    fixed = used_state(TEST, net, own, phase_is_fixed=True)
    free = used_state(TEST, net, own, phase_is_fixed=False)
    assert (fixed.phase, free.phase) == (TEST, TRAIN)
    for state in (fixed, free):
        assert (state.level, list(state.stage)) == (3, ["net", "own"])
    own.phase = TEST
    assert used_state(TRAIN, NetParameter(), own, phase_is_fixed=False).phase == TEST
    assert used_state(TRAIN, NetParameter(), own, phase_is_fixed=True).phase == TRAIN
    assert used_state(TRAIN, NetParameter(), None, phase_is_fixed=False) == NetState(phase=TRAIN)
