"""Reading says where it fails; writing is whole or not at all."""

import os
import stat
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import dumps, loads, read_model, read_text, write_text

NetParameter = DEFAULT_DIALECT.message("NetParameter")


@pytest.mark.parametrize("text, place, what, hint", [
    ('layer {\n  nmae: "x"\n}', "f:2:3", "LayerParameter has no field 'nmae'", "did you mean 'name'?"),
    ("layer { kernel_size: 3 }", "f:1:9", "no field 'kernel_size'", "ConvolutionParameter"),
    ("layer { pooling_param { pool: MAXX } }", "f:1:31", "PoolMethod has no value 'MAXX'", "did you mean 'MAX'?"),
    ('layer { name: "x"', "f:1:", 'Expected "}"', ""),
    ("input_dim: 99999999999", "f:1:12", "out of range", ""),
    ('name: "\\xff"', "f:1:", "parse string", ""),
    ('name: "a" name: "b"', "f:1:", "multiple", ""),
    ("<html>", "f:1:1", "", ""),
])
def test_text_that_does_not_parse_is_placed_and_explained(text, place, what, hint):
    with pytest.raises(Error) as caught:
        loads(text, NetParameter, "f")
    assert caught.value.where.startswith(place) and what in caught.value.what and hint in caught.value.hint


NET = 'name: "n" layer { name: "a" type: "ReLU" bottom: "x" top: "x" }'
SOLVER = 'net: "train.prototxt" base_lr: 0.1 lr_policy: "fixed"'


@pytest.mark.parametrize("text, kind, what, hint", [
    (NET, "SolverParameter", "is a net, and a solver is wanted", "prototxt-gen solver writes one"),
    (NET.replace("bottom", "botom"), "SolverParameter", "is a net, and a solver is wanted", ""),
    (SOLVER, "NetParameter", "is a solver, and a net is wanted", "the net that it trains is 'train.prototxt'"),
    ('train_net: "t" max_iter: 3', "NetParameter", "is a solver, and a net is wanted", "the net that it trains is 't'"),
    (f"net_param {{ {NET} }} base_lr: 1", "NetParameter", "is a solver", "stands in it"),
    (SOLVER.replace("base_lr", "base_lrr"), "SolverParameter", "no field 'base_lrr'", "did you mean 'base_lr'?"),
    (NET.replace("bottom", "botom"), "NetParameter", "no field 'botom'", "did you mean 'bottom'?"),
])
def test_a_net_and_a_solver_are_told_apart(text, kind, what, hint):
    with pytest.raises(Error) as caught:
        loads(text, DEFAULT_DIALECT.message(kind), "f")
    assert what in caught.value.what and hint in caught.value.hint


@given(st.text(alphabet=string.printable, max_size=200))
def test_any_text_parses_or_is_our_error(text):
    try:
        loads(text, NetParameter)
    except Error:
        pass


names = st.text(alphabet=string.ascii_letters + "/_ é\"\\", min_size=1, max_size=12)


@given(st.lists(st.tuples(names, names, st.integers(0, 10**6), st.floats(width=32, allow_nan=False)), max_size=5))
def test_printing_then_parsing_gives_the_message_back(layers):
    net = NetParameter(name="n")
    for name, kind, number, ratio in layers:
        layer = net.layer.add(name=name, type=kind)
        layer.inner_product_param.num_output = number
        layer.dropout_param.dropout_ratio = ratio
    assert loads(dumps(net), NetParameter) == net


def test_unreadable_files(tmp_path):
    binary = tmp_path / "weights.caffemodel"
    binary.write_bytes(b"\x0a\x03\xff\xfe\xfd")
    with pytest.raises(Error, match="is not text"):
        read_text(str(binary))
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(Error, match="cannot be read"):
            read_model(str(path))


def test_write_replaces_whole_files_only(tmp_path):
    target = tmp_path / "net.prototxt"
    target.write_text("old")
    target.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(target)
    write_text(str(link), "new")
    assert target.read_text() == "new" and link.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    with pytest.raises(UnicodeEncodeError):
        write_text(str(target), "half \ud800")
    assert target.read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["link", "net.prototxt"]


def test_new_files_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(str(tmp_path / "x"), "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


def test_writing_where_no_file_can_be(tmp_path):
    with pytest.raises(Error, match="cannot be written"):
        write_text(str(tmp_path / "missing" / "x"), "text")
    write_text("/dev/null", "text")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_byte_order_mark_is_named():
    with pytest.raises(Error, match="begins with a byte order mark, which Caffe cannot read"):
        loads('\ufeffname: "x"', DEFAULT_DIALECT.message("NetParameter"))
