"""Weights that fit a net and weights that do not: what Caffe refuses to copy is refused with both shapes."""

import numpy as np
import pytest

from prototxt_gen.core.dialects import DEFAULT_DIALECT, DIALECTS
from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import Model, loads
from prototxt_gen.spec.weights import fit_weights

NET = """input: "data" input_shape { dim: [1, 3, 4, 4] }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 2 kernel_size: 1 } }
layer { name: "bn" type: "BN" bottom: "conv" top: "bn" }
layer { name: "ip" type: "InnerProduct" bottom: "bn" top: "ip" inner_product_param { num_output: 5 } }
layer { name: "own" type: "Own" bottom: "ip" top: "own" }
"""


def fit(blobs, dialect=DEFAULT_DIALECT):
    blobs = {name: tuple(np.zeros(shape, np.float32) for shape in shapes) for name, shapes in blobs.items()}
    model, notes = fit_weights(Model(loads(NET, dialect.message("NetParameter")), dialect, blobs))
    return {name: [one.shape for one in arrays] for name, arrays in model.blobs.items()}, notes


@pytest.mark.parametrize("dialect", [DIALECTS["attention"], DIALECTS["happynear"], DIALECTS["pspnet"]],
                         ids=lambda one: one.name)
def test_ones_in_front_make_no_difference(dialect):
    given = {"conv": [(2, 3, 1, 1), (1, 1, 1, 2)], "bn": [(1, 2)] * 4, "ip": [(1, 1, 5, 32), (1, 5)], "own": [(7,)]}
    shapes, notes = fit(given, dialect)
    assert shapes == {"conv": [(2, 3, 1, 1), (2,)], "bn": [(1, 2)] * 4, "ip": [(5, 32), (5,)], "own": [(7,)]}
    assert notes == ()


def test_layers_without_weights_are_noted():
    assert fit({"conv": [(2, 3, 1, 1), (2,)]})[1] == ("no weights for 2 of 3 layers with parameters: 'bn', 'ip'",)


@pytest.mark.parametrize("blobs, what", [
    ({"conv": [(2, 3, 1, 1)]}, "layer 'conv': Convolution has 2 blobs here, and the weights hold 1"),
    ({"conv": [(3, 2, 1, 1), (2,)]}, "layer 'conv': blob 0 is 2x3x1x1, and in the weights 3x2x1x1"),
    ({"conv": [(2, 3, 1, 1), (2, 1)]}, "layer 'conv': blob 1 is 2, and in the weights 2x1"),
    ({"bn": [(1, 3)] * 4}, "layer 'bn': blob 0 is 1x2x1x1, and in the weights 1x3"),
    ({"ip": [(1, 1, 1, 5, 32), (5,)]}, "layer 'ip': blob 0 is 5x32, and in the weights 1x1x1x5x32"),
])
def test_what_does_not_fit(blobs, what):
    with pytest.raises(Error) as caught:
        fit(blobs)
    assert str(caught.value).startswith(what)
