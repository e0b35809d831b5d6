"""Each field of a prototxt is found on its line, however the text is written."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.io import dumps, loads
from prototxt_gen.core.locations import Locations
from prototxt_gen.nets.builder import build
from prototxt_gen.nets.configs import NETWORKS

NetParameter = DEFAULT_DIALECT.message("NetParameter")
SolverParameter = DEFAULT_DIALECT.message("SolverParameter")

TEXT = """\
# layer { name: "in a comment" }
name: "a # no comment, and no layer { either" input: 'it''s "one" value'
layer {
  name: "one"; bottom: "a", bottom: "b"
  param { lr_mult: 1 } param: < lr_mult:
    2 >
  convolution_param { pad: [1, 2,
    3] pad: 4 kernel_size : 3 }
}
layer: <
  name: "escaped \\" } quote"  # }
  top: "two "
       "strings"
  top: "t"
>
layer { reshape_param < shape: { dim: 0 dim: -1 } > }
layer: [ { name: "listed" },
  { name: "too" top: "u" }
]
"""


@pytest.mark.parametrize("path, line, column", [
    ("name", 2, 1), ("input", 2, 47), ("layer", 3, 1), ("layer[0].name", 4, 3), ("layer[0].bottom[1]", 4, 29),
    ("layer[0].param[0].lr_mult", 5, 11), ("layer[0].param[1]", 5, 24), ("layer[0].param[1].lr_mult", 5, 33),
    ("layer[0].convolution_param.pad", 7, 23), ("layer[0].convolution_param.pad[1]", 7, 32),
    ("layer[0].convolution_param.pad[2]", 8, 5), ("layer[0].convolution_param.pad[3]", 8, 8),
    ("layer[0].convolution_param.kernel_size", 8, 15),
    ("layer[1]", 10, 1), ("layer[1].name", 11, 3), ("layer[1].top[1]", 14, 3),
    ("layer[2].reshape_param.shape.dim[1]", 16, 41),
    ("layer[3].name", 17, 12), ("layer[4]", 18, 3), ("layer[4].top", 18, 17),
])
def test_every_way_of_writing_a_field(path, line, column):
    assert Locations(TEXT).find(path) == (line, column)


def test_the_text_of_the_test_is_a_prototxt():
    net = loads(TEXT, NetParameter)
    assert [layer.name for layer in net.layer] == ["one", 'escaped " } quote', "", "listed", "too"]


@pytest.mark.parametrize("path, line", [
    ("layer[1].type", 10), ("layer[2].reshape_param.axis", 16), ("layer[9].name", 1), ("state.level", 1), ("", 1),
])
def test_a_field_that_is_not_written_is_where_the_one_around_it_is(path, line):
    assert path not in Locations(TEXT)
    assert Locations(TEXT).find(path).line == line


def scalars(message, prefix=""):
    """Yield (path, name) of every scalar that is set."""
    for field, value in message.ListFields():
        for index, one in enumerate(value if hasattr(value, "extend") else [value]):
            path = f"{prefix}{field.name}[{index}]"
            if field.message_type:
                yield from scalars(one, path + ".")
            else:
                yield path, field.name


def assert_all_found(message):
    text = dumps(message)
    lines, locations = text.split("\n"), Locations(text)
    for path, name in scalars(message):
        line, column = locations.find(path)
        assert path in locations and lines[line - 1][column - 1:].startswith(name + ":"), path
    assert len(locations.paths()) == len(re.findall(r"^ *\w+(?:: | \{)", text, re.MULTILINE))


names = st.text(max_size=8)
layers = st.builds(
    lambda name, bottoms, rates, pads: dict(name=name, bottom=bottoms, param=[dict(lr_mult=rate) for rate in rates],
                                            convolution_param=dict(pad=pads)),
    names, st.lists(names, max_size=3), st.lists(st.floats(0, 10, width=32), max_size=2),
    st.lists(st.integers(0, 2**32 - 1), max_size=3),
)


@settings(max_examples=50, deadline=None)
@given(names, st.lists(layers, max_size=4))
def test_every_scalar_of_a_printed_message_stands_where_it_is_found(name, several):
    assert_all_found(NetParameter(name=name, layer=several))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-9, 9), max_size=4), names, st.lists(layers, max_size=2))
def test_every_scalar_of_a_printed_solver_stands_where_it_is_found(steps, prefix, several):
    assert_all_found(SolverParameter(stepvalue=steps, snapshot_prefix=prefix, net_param=dict(layer=several)))


def test_every_scalar_of_a_whole_network():
    assert_all_found(build(NETWORKS["attention56"]).net)


@given(st.text(alphabet="ab{}<>[]:,;\"'\\# \n-1", max_size=60), st.sampled_from(["a", "a[1].b", "b.a[2]"]))
def test_any_text_has_places_within_it(text, path):
    line, column = Locations(text).find(path)
    assert 1 <= line <= text.count("\n") + 1 and 1 <= column <= len(text.split("\n")[line - 1]) + 1
