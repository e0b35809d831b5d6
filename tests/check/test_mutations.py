"""One field of one layer changed at a time, over all layers: which share do the paper check, lint and diff catch?

Run with ``-s`` to see the shares.
"""

import random

import pytest

from prototxt_gen.check.diff import compare
from prototxt_gen.check.lint import Options, lint, registry
from prototxt_gen.check.paper import FAIL, check_paper
from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import dumps
from prototxt_gen.nets.builder import build
from prototxt_gen.nets.configs import NETWORKS

# type: (parameter message, {field: what a slip of the hand does to it})
SLIPS = {
    "Convolution": ("convolution_param", {
        "num_output": lambda p: setattr(p, "num_output", p.num_output // 2),
        "kernel_size": lambda p: p.kernel_size.__setitem__(0, p.kernel_size[0] + 2),
        "pad": lambda p: p.pad.__setitem__(0, p.pad[0] + 1),
        "stride": lambda p: p.stride.__setitem__(0, 3 - min(p.stride[0], 2)),
        "bias_term": lambda p: setattr(p, "bias_term", True),
        "group": lambda p: setattr(p, "group", 1 if p.group > 1 else 2),
    }),
    "Pooling": ("pooling_param", {
        "pool": lambda p: setattr(p, "pool", 1 - p.pool),
        "pad": lambda p: setattr(p, "pad", 1),
    }),
    "Eltwise": ("eltwise_param", {
        "operation": lambda p: setattr(p, "operation", 1 - p.operation),
        "coeff": lambda p: p.coeff.extend([1, -1]),
    }),
    "BN": ("bn_param", {
        "eps": lambda p: setattr(p, "eps", 1e-3),
        "momentum": lambda p: setattr(p, "momentum", 0.5),
    }),
    "ReLU": ("relu_param", {"negative_slope": lambda p: setattr(p, "negative_slope", 0.1)}),
    "InnerProduct": ("inner_product_param", {"num_output": lambda p: setattr(p, "num_output", 999)}),
    "Interp": ("interp_param", {"height": lambda p: (setattr(p, "height", 9), setattr(p, "width", 9))}),
}


def mutants(net, seed):
    """Yield (layer and field, net) with one field changed, for each layer that has fields to slip on."""
    choose = random.Random(seed).choice
    for index, layer in enumerate(net.layer):
        if layer.type not in SLIPS:
            continue
        message, slips = SLIPS[layer.type]
        field = choose(sorted(slips))
        copy = type(net)()
        copy.CopyFrom(net)
        slips[field](getattr(copy.layer[index], message))
        yield f"{layer.name}: {field}", copy


def caught_by_paper(net, mutant, name):
    return any(row.verdict == FAIL for row in check_paper(mutant, name))


def caught_by_lint(net, mutant, name):
    return any(finding.severity == "error" for finding in lint(dumps(mutant), "net.prototxt", Options(registry.rules())))


def caught_by_diff(net, mutant, name):
    return not compare(net, mutant).same


# Every how many-th change each check is asked about: only the paper check has to know them all.
CHECKS = {"check --paper": (caught_by_paper, 1), "lint": (caught_by_lint, 4), "diff": (caught_by_diff, 8)}


@pytest.mark.parametrize("name", ["attention56", "attentionnext56"])
def test_shares_of_single_field_changes(name):
    """The paper check and diff catch every one; lint, which knows no intention, only those that make no net.

    A change that makes a net which cannot exist is caught where the command ends with an Error.
    """
    net = build(NETWORKS[name], "deploy").net
    asked = {check: 0 for check in CHECKS}
    missed = {check: [] for check in CHECKS}
    for number, (what, mutant) in enumerate(mutants(net, seed=1)):
        for check, (caught, every) in CHECKS.items():
            if number % every:
                continue
            asked[check] += 1
            try:
                if not caught(net, mutant, name):
                    missed[check].append(what)
            except Error:
                continue
    for check in CHECKS:
        share = 1 - len(missed[check]) / asked[check]
        print(f"\n{name}, {check}: {100 * share:.1f} % of {asked[check]} changes caught", end="")
    assert asked["check --paper"] > 370 and asked["diff"] > 45
    assert not missed["check --paper"] and not missed["diff"]
    shapes = ("num_output", "kernel_size", "stride")
    assert not [one for one in missed["lint"] if one.endswith(shapes) and one.split(":")[0].endswith("branch1/conv3_1x1")]
