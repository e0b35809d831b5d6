"""The paper check agrees with every form of the four nets, shows the publication's own deviations, and fails the rest."""

import pytest

from prototxt_gen.check.paper import DEVIATES, FAIL, OK, PRINTED, check_paper, which_network
from prototxt_gen.core.errors import Error
from prototxt_gen.nets.builder import FORMS, build
from prototxt_gen.nets.configs import NETWORKS, vary

# The paper's figures that the authors' own files do not meet.
DEVIATIONS = {
    "attention56": {"multiply-adds": ("6.2 G", "6.27 G (6270836736)")},
    "attention92": {"parameters, BN's four blobs in": ("51.3 M", "52.60 M (52599976)"),
                    "multiply-adds": ("10.4 G", "10.53 G (10533789696)")},
    "attentionnext56": {"parameters, BN's four blobs in": ("31.9 M", "31.42 M (31417256)"),
                        "multiply-adds": ("6.3 G", "6.42 G (6419106816)")},
    "attentionnext92": {},
}


@pytest.mark.parametrize("name", PRINTED)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_agrees_and_deviations_are_shown(name, form):
    net = build(NETWORKS[name], form).net
    assert which_network(net, None, "") == name
    rows = check_paper(net, name)
    assert {row.what: (row.paper, row.net) for row in rows if row.verdict == DEVIATES} == DEVIATIONS[name]
    assert all(row.verdict in (OK, DEVIATES) for row in rows)
    assert [row.net for row in rows if row.what == "trunk depth"] == [str(NETWORKS[name].depth)]


def test_other_input_sizes_and_names_are_checked_at_224():
    net = build(NETWORKS["attention92"], "deploy", input_size=320, batch_size=7, name="mine").net
    assert not any(row.verdict == FAIL for row in check_paper(net, "attention92"))
    with pytest.raises(Error, match="'mine' is none of the paper's networks"):
        which_network(net, None, "")


@pytest.mark.parametrize("name, changes, row", [
    ("attention56", dict(modules="1,1,2"), "attention modules C"),
    ("attention92", dict(modules="1,1,3"), "attention modules B"),
    ("attention56", dict(widths="64,128,256,256"), "residual units 4"),
    ("attention56", dict(mask_levels="2,2,1"), "    mask levels down, up"),
    ("attention56", dict(strides="1,2,2,1"), "  output"),
    ("attention56", dict(trunk_units="1"), "    trunk units"),
    ("attention56", dict(stem_kernel="5"), "conv1"),
    ("attentionnext56", dict(groups="16"), "residual unit 1"),
    ("attention56", dict(groups="32"), "residual unit 1"),
])
def test_another_architecture_fails_in_the_row_that_shows_it(name, changes, row):
    rows = check_paper(build(vary(NETWORKS[name], changes), name=NETWORKS[name].name).net, name)
    assert row in {one.what for one in rows if one.verdict == FAIL}


def without(net, doomed):
    """Return the net without some layers, their readers reading what the first of them reads."""
    copy = type(net)()
    copy.name = net.name
    source = {}
    for layer in net.layer:
        if layer.name in doomed:
            source.update({top: source.get(layer.bottom[0], layer.bottom[0]) for top in layer.top})
            continue
        kept = copy.layer.add()
        kept.CopyFrom(layer)
        for index, name in enumerate(kept.bottom):
            kept.bottom[index] = source.get(name, name)
    return copy


def test_a_dropped_unit_fails():
    net = build(NETWORKS["attention56"], "deploy").net
    unit = {layer.name for layer in net.layer if layer.name.startswith("post_res_4_3")} - {"post_res_4_3/bn", "post_res_4_3/bn/relu"}
    failed = {row.what for row in check_paper(without(net, unit), "attention56") if row.verdict == FAIL}
    assert {"residual units 4", "trunk depth", "Convolution layers", "layers as published"} <= failed


def test_what_training_changes_is_no_difference():
    net = build(NETWORKS["attention56"]).net
    for layer in net.layer:
        layer.convolution_param.weight_filler.type = "xavier"
        layer.bn_param.frozen = True
        if layer.type != "Convolution":
            layer.ClearField("convolution_param")
        if layer.type != "BN":
            layer.ClearField("bn_param")
    assert not any(row.verdict == FAIL for row in check_paper(net, "attention56"))
