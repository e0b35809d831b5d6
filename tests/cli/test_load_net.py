"""NET arguments: whatever stands in a file, it is a net or an error of ours, and two readings of it mean the same."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prototxt_gen.check.diff import compare
from prototxt_gen.check.diff_text import describe
from prototxt_gen.cli.arguments import load_net, load_weights
from prototxt_gen.core.dialects import DEFAULT_DIALECT, DIALECTS
from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import dumps, loads
from prototxt_gen.core.upgrade import upgrade_net

NetParameter = DEFAULT_DIALECT.message("NetParameter")
OLD_NETS = sorted((Path(__file__).parents[1] / "core" / "old_nets").glob("*.prototxt"))
TEXTS = [path.read_bytes() for path in OLD_NETS]
BINARIES = [loads(text.decode(), NetParameter).SerializeToString() for text in TEXTS]


@pytest.mark.parametrize("path", OLD_NETS, ids=lambda path: path.stem)
def test_text_and_binary_are_the_same_net_of_today(path, tmp_path, capsys):
    binary = tmp_path / "net.caffemodel"
    binary.write_bytes(BINARIES[OLD_NETS.index(path)])
    nets = [load_net(str(one)).net for one in (path, binary)]
    notes = capsys.readouterr()
    assert nets[0] == nets[1] == upgrade_net(loads(path.read_text(), NetParameter)).message
    assert notes.out == "" and len(notes.err.splitlines()) == 2
    assert notes.err.startswith(f"note: {path}: upgraded from ")
    load_net(str(path), quiet=True)
    assert capsys.readouterr().err == ""


def test_a_required_field_may_not_lack(tmp_path):
    (tmp_path / "net").write_text('layer { name: "clip" type: "Clip" clip_param { min: 1 } }')
    with pytest.raises(Error, match="lacks layer.0..clip_param.max, which Caffe requires"):
        load_net(str(tmp_path / "net"))


@st.composite
def damaged(draw):
    """The bytes of a real net with a few of them changed, cut out or doubled."""
    data = bytearray(draw(st.sampled_from(TEXTS + BINARIES)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        end = at + draw(st.integers(0, 8))
        data[at:end] = draw(st.one_of(st.binary(max_size=2), st.just(bytes(data[at:end] * 2))))
    return bytes(data)


@settings(deadline=None, max_examples=150)
@given(data=st.one_of(damaged(), st.binary(max_size=40)))
def test_damaged_files(data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(data)
    try:
        net = load_net(str(path), quiet=True).net
        twin = type(net)()
        twin.CopyFrom(net)
        twin.name += " twin"
        assert compare(net, twin).same
        other = upgrade_net(NetParameter.FromString(BINARIES[0])).message
        assert all(map(describe, compare(net, other).differences))
    except Error as error:
        assert error.what


def test_blobs_become_the_models(tmp_path):
    text = 'layer { name: "ip" type: "InnerProduct" blobs { shape { dim: 2 } data: [1, 2.5] } }'
    (tmp_path / "text").write_text(text)
    (tmp_path / "binary").write_bytes(loads(text, NetParameter).SerializeToString())
    for name in ("text", "binary"):
        model = load_net(str(tmp_path / name))
        assert model.blobs["ip"][0].tolist() == [1, 2.5] and not model.net.layer[0].blobs
        assert load_weights(str(tmp_path / name), DEFAULT_DIALECT).blobs["ip"][0].tolist() == [1, 2.5]
    (tmp_path / "bare").write_text('layer { name: "ip" }')
    with pytest.raises(Error, match="bare: holds no weights"):
        load_weights(str(tmp_path / "bare"), DEFAULT_DIALECT)


def test_weights_in_hdf5_are_no_net(tmp_path):
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("data/ip/0", data=np.float32([1, 2.5]))
    assert load_weights(str(path), DEFAULT_DIALECT).blobs["ip"][0].tolist() == [1, 2.5]
    with pytest.raises(Error, match="is HDF5: weights, which tell no net"):
        load_net(str(path))


@pytest.mark.parametrize("name", DIALECTS)
def test_binaries_and_networks_in_every_dialect(name, tmp_path):
    dialect = DIALECTS[name]
    net = dialect.message("NetParameter")(input=["x"], layer=[dict(name="s", type="Sigmoid", bottom=["x"], top=["y"])])
    net.input_shape.add(dim=[1, 2])
    path = tmp_path / "net"
    for content in (net.SerializeToString(), dumps(net).encode()):
        path.write_bytes(content)
        model = load_net(str(path), dialect=dialect)
        has_input = "input_param" not in dialect.lacks
        assert model.dialect is dialect and [layer.type for layer in model.net.layer][-1] == "Sigmoid"
        assert (model.net.layer[0].type == "Input") is has_input and bool(model.net.input) is not has_input
    if name == "bvlc":
        with pytest.raises(Error, match="has no field 'bn_param'"):
            load_net("attention56", dialect=dialect)
    else:
        assert load_net("attention56", dialect=dialect).dialect is dialect


@pytest.mark.parametrize("command", [("summary",), ("convert", "--pass", "seed-weights"), ("export", "--to", "python")])
def test_a_file_without_layers_is_no_net(cli, tmp_path, command):
    (tmp_path / "empty.prototxt").write_text("")
    done = cli(*command, "empty.prototxt", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: empty.prototxt: holds no layers of a net\n"


@pytest.mark.parametrize("command", [("convert", "--pass", "seed-weights"), ("export", "--to", "onnx", "-o", "x.onnx")])
def test_what_is_wrong_in_a_net_comes_with_its_file(cli, tmp_path, command):
    (tmp_path / "net.prototxt").write_text('layer { name: "a" type: "ReLU" bottom: "x" top: "y" }')
    done = cli(*command, "net.prototxt", cwd=tmp_path)
    assert done.returncode == 2 and not (tmp_path / "x.onnx").exists()
    assert done.stderr.startswith("error: net.prototxt: layer 'a' (ReLU) reads blob 'x', which no layer before it makes")
