"""dialect: names stay, numbers change, round trips are exact, and BN's fourth blob is never changed unasked."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prototxt_gen.core.caffemodel import read_weights, write_weights
from prototxt_gen.core.dialects import DEFAULT_DIALECT, DIALECTS
from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import Model, dumps, loads
from prototxt_gen.nets.builder import build
from prototxt_gen.nets.configs import NETWORKS
from prototxt_gen.passes.batchnorm import split_bn
from prototxt_gen.passes.dialect import dialect

EVERYWHERE = ['{ name: "c%d" type: "Convolution" convolution_param { num_output: %d kernel_size: [3, 1] } }',
              '{ name: "p%d" type: "Power" power_param { power: 0.1 shift: -1e-30 scale: %d } }',
              '{ name: "s%d" type: "Scale" include { phase: TEST stage: "x%d" } scale_param { } }',
              '{ name: "é%d" type: "Python" python_param { param_str: "\\001\\"%d" } }']
BN = '{ name: "b%d" type: "BN" bn_param { eps: 1e-%d frozen: true slope_filler { value: 0.3 } } }'
INTERP = '{ name: "i%d" type: "Interp" interp_param { zoom_factor: %d } }'
SWISH = '{ name: "w%d" type: "Swish" swish_param { beta: %d } }'
CLIP = '{ name: "k%d" type: "Clip" clip_param { min: -1 max: %d } }'
INPUT = '{ name: "in%d" type: "Input" input_param { shape { dim: %d } } }'
KNOWN = {"attention": [BN, INTERP, SWISH, CLIP, INPUT], "bvlc": [SWISH, CLIP, INPUT], "happynear": [BN, INPUT],
         "pspnet": [BN, INTERP]}


def model_of(text, name="attention", **blobs):
    return Model(loads(text, DIALECTS[name].message("NetParameter")), DIALECTS[name], blobs)


def bn_blobs(shape=(1, 2, 1, 1), fourth=(0.5, 2)):
    return tuple(np.float32(one).reshape(shape) for one in ((1, 2), (3, 4), (5, 6), fourth))


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(sorted(KNOWN)), st.sampled_from(sorted(KNOWN)))
def test_round_trips_are_exact(data, first, second):
    both = EVERYWHERE + [one for one in KNOWN[first] if one in KNOWN[second]]
    layers = data.draw(st.lists(st.sampled_from(both), max_size=6))
    text = "".join(f"layer {one % (number, number + 1)}" for number, one in enumerate(layers))
    model = model_of(f'name: "n" force_backward: true state {{ level: 2 }} {text}', first,
                     **{f"b{number}": bn_blobs() for number, one in enumerate(layers) if one == BN})
    there = dialect(model, to=second, bn_statistic="inv-std").model
    assert there.dialect.name == second and dumps(there.net) == dumps(model.net)
    back = dialect(there, to=first, bn_statistic="inv-std").model
    assert back.net == model.net and list(back.blobs) == list(model.blobs)
    for name, arrays in model.blobs.items():
        for old, new in zip(arrays, back.blobs[name]):
            assert old.reshape(-1).tobytes() == new.reshape(-1).tobytes()


def test_a_binary_carries_the_numbers_of_its_dialect(tmp_path):
    model = model_of(f"layer {BN % (0, 5)}", b0=bn_blobs())
    path = str(tmp_path / "happynear.caffemodel")
    result = dialect(model, to="happynear")
    assert result.edits == (
        "1 BN: fourth blob still inv-std; dialect 'happynear' does not tell, --bn-statistic inv-std does",
        "1 BN: blobs (1, C)")
    write_weights(path, result.model)
    with pytest.raises(Error, match="it reads as happynear: --dialect happynear"):
        read_weights(path)
    again = read_weights(path, DIALECTS["happynear"])
    assert again.net.layer[0].bn_param.frozen and [one.shape for one in again.blobs["b0"]] == [(1, 2)] * 4
    back = dialect(again, to="attention", bn_statistic="inv-std").model
    assert back.net == model.net and [one.shape for one in back.blobs["b0"]] == [(1, 2, 1, 1)] * 4
    assert all(np.array_equal(x, y) for x, y in zip(back.blobs["b0"], model.blobs["b0"]))


def test_the_fourth_blob_is_converted_only_when_it_is_told_what_it_holds():
    model = model_of(f"layer {BN % (0, 5)}", "happynear", b0=bn_blobs((1, 2), fourth=(0.25, 4)))
    with pytest.raises(Error, match="dialect 'happynear' does not tell what BN's fourth blob holds"):
        dialect(model, to="attention")
    result = dialect(model, to="attention", bn_statistic="variance")
    assert "1 BN: fourth blob, variance, written as inv-std" in result.edits
    np.testing.assert_allclose(result.model.blobs["b0"][3].ravel(), (np.float64([0.25, 4]) + 1e-5) ** -0.5, rtol=1e-7)
    assert model.blobs["b0"][3].tolist() == [[0.25, 4]]
    assert dialect(model_of(f"layer {BN % (0, 5)}", "happynear"), to="attention").model.dialect is DEFAULT_DIALECT
    wrong = model_of(f"layer {BN % (0, 5)}", "happynear", b0=bn_blobs((1, 2), fourth=(-1, 4)))
    with pytest.raises(Error, match="layer 'b0': the variance of 1 of its channels is -1"):
        dialect(wrong, to="attention", bn_statistic="variance")


@pytest.mark.parametrize("layer, to, what, hint", [
    (BN, "bvlc", "dialect 'bvlc' has no layer BN: 'b0'", "--pass split-bn first"),
    (INTERP, "bvlc", "dialect 'bvlc' has no layer Interp: 'i0'", "no pass writes Interp as other layers"),
    (INTERP, "happynear", "has no layer Interp", "no pass"),
    (SWISH, "pspnet", "has no layer Swish", "no pass"),
    ('{ name: "l%d" type: "LSTM" recurrent_param { num_output: %d } }', "pspnet", "has no layer LSTM", "no pass"),
])
def test_layers_that_the_target_lacks(layer, to, what, hint):
    with pytest.raises(Error) as caught:
        dialect(model_of(f"layer {layer % (0, 5)}"), to=to)
    assert what in caught.value.what and hint in caught.value.hint and caught.value.where.startswith("layer '")


def test_split_first_and_bvlc_reads_it(tmp_path):
    text = f'layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: [1, 2] }} }} }} layer {BN % (0, 5)}'
    model = model_of(text.replace('type: "BN"', 'type: "BN" bottom: "x" top: "y"'), b0=bn_blobs())
    model = dialect(split_bn(model).model, to="bvlc").model
    path = str(tmp_path / "bvlc.caffemodel")
    write_weights(path, model)
    again = read_weights(path, DIALECTS["bvlc"])
    assert again.net == model.net and list(again.blobs) == ["b0", "b0/scale"]
    with pytest.raises(Error, match="has no layer Interp: .* and [0-9]+ more"):
        dialect(split_bn(build(NETWORKS["attention56-cifar"], "deploy")).model, to="bvlc")


def test_inputs_where_there_is_no_input_layer():
    model = model_of('layer { name: "in" type: "Input" top: "a" top: "b" input_param { shape { dim: [1, 3, 4, 5] } } }'
                     ' layer { name: "i" type: "Interp" bottom: "a" top: "c" interp_param { height: 7 } }')
    there = dialect(model, to="pspnet").model
    assert list(there.net.input) == ["a", "b"]
    assert [list(one.dim) for one in there.net.input_shape] == [[1, 3, 4, 5]] * 2
    assert there.net.layer[0].interp_param.height == 7 and len(there.net.layer) == 1
    back = dialect(there, to="attention").model.net
    assert back.layer[0].name == "input" and list(back.layer[0].top) == ["a", "b"]
    assert back.layer[1] == model.net.layer[1]
    for layer, what in (('include { phase: TEST } input_param { shape { dim: 1 } }', "is in every phase"),
                        ('top: "b"', "it has 0 shapes for 2 tops")):
        with pytest.raises(Error, match=what):
            dialect(model_of(f'layer {{ name: "d" type: "Input" top: "a" {layer} }}'), to="pspnet")


def test_fields_without_a_name_are_not_carried_to_where_they_mean_something_else():
    swish = DIALECTS["bvlc"].message("NetParameter")()
    swish.layer.add(name="x", type="Convolution").swish_param.beta = 2
    happynear = DIALECTS["happynear"]
    model = Model(happynear.message("NetParameter").FromString(swish.SerializeToString()), happynear)
    result = dialect(model, to="bvlc")
    assert not result.model.net.layer[0].HasField("swish_param")
    assert result.edits == ("layer 'x': fields of unknown meaning left out",)
    stray = model_of('layer { name: "x" type: "Convolution" interp_param { height: 1 } }')
    assert dialect(stray, to="bvlc").edits == ("layer 'x': interp_param left out, which 'bvlc' lacks",)


def test_what_is_refused():
    with pytest.raises(Error, match="no dialect is called 'bvcl'"):
        dialect(model_of(""), to="bvcl")
    with pytest.raises(Error, match="--pass upgrade first"):
        dialect(model_of('layers { name: "x" }'), to="bvlc")
    with pytest.raises(Error, match="layer 'b0': BN has 4 blobs of C values, and the weights hold others"):
        dialect(model_of(f"layer {BN % (0, 5)}", b0=(np.zeros(2),)), to="happynear")
    model = model_of("")
    assert dialect(model, to="attention").model is model
