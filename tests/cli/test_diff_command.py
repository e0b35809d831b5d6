"""``prototxt-gen diff``: exit codes, forms of output, and everything that A and B may be."""

import json

import pytest

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.io import loads

NetParameter = DEFAULT_DIALECT.message("NetParameter")
NET = """name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 4 dim: 8 dim: 8 } } }
layer {
  name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 }
}
"""
WIDER = NET.replace("num_output: 4", "num_output: 8")
V1 = """name: "small" input: "data" input_dim: 1 input_dim: 4 input_dim: 8 input_dim: 8
layers { name: "conv" type: CONVOLUTION bottom: "data" top: "conv"
         convolution_param { num_output: 4 kernel_size: 3 pad: 1 } }
"""


@pytest.fixture
def files(tmp_path):
    for name, text in (("a", NET), ("b", WIDER), ("v1", V1)):
        (tmp_path / name).write_text(text)
    (tmp_path / "binary").write_bytes(loads(V1, NetParameter).SerializeToString())
    return tmp_path


def test_same_and_different(cli, files):
    same = cli("diff", "a", "a", cwd=files)
    assert (same.returncode, same.stdout, same.stderr) == (0, "", "")
    other = cli("diff", "a", "b", cwd=files)
    assert other.returncode == 1 and other.stderr == ""
    assert other.stdout.splitlines() == [
        "conv: num_output 4 -> 8  (+148 parameters, +9.2 k macs, 'conv' 4x8x8 -> 8x8x8)",
        "total: parameters 148 -> 296 (+148), macs 9.2 k -> 18.4 k (+9.2 k)",
    ]


@pytest.mark.parametrize("old, note", [("v1", "upgraded from V1 layers, input fields"),
                                       ("binary", "upgraded from V1 layers, input fields")])
def test_old_and_binary_nets_are_upgraded_with_a_note(cli, files, old, note):
    done = cli("diff", old, "a", cwd=files)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"note: {old}: {note}\n")


def test_a_network_against_a_file_and_standard_input(cli, files):
    text = cli("attention56").stdout
    assert cli("diff", "attention56", "-", stdin=text).returncode == 0
    renamed = cli("diff", "-", "attention56", stdin=text.replace('"Attention-56"', '"mine"'))
    assert (renamed.returncode, renamed.stdout) == (0, "note: the net's name is 'mine' in A, 'Attention-56' in B\n")
    fewer = text.replace("num_output: 1000", "num_output: 10")
    done = cli("diff", "attention56", "-", "--phase", "test", stdin=fewer)
    assert done.returncode == 1 and done.stdout.startswith("classifier: num_output 1000 -> 10  (-2.0 M parameters")


def test_json_is_one_document(cli, files):
    done = cli("diff", "a", "b", "--json", cwd=files)
    document = json.loads(done.stdout)
    assert done.returncode == 1 and done.stdout == json.dumps(document, indent=2, sort_keys=True) + "\n"
    [change] = document["differences"]
    assert change["layer"] == "conv" and change["effect"]["macs"] == 4 * 4 * 9 * 64 and document["same"] is False
    assert change["fields"] == [{"path": "convolution_param.num_output", "old": 4, "new": 8}]
    assert change["effect"]["tops"] == [{"blob": "conv", "old": [1, 4, 8, 8], "new": [1, 8, 8, 8]}]
    assert json.loads(cli("diff", "a", "v1", "--format", "json", cwd=files).stdout)["same"] is True


def test_github_annotations_name_the_line(cli, files):
    done = cli("diff", "a", "b", "--format", "github", cwd=files)
    assert done.returncode == 1
    assert done.stdout.startswith("::error file=b,line=3::conv: num_output 4 -> 8")
    # An upgraded net's layers stand elsewhere, a caffemodel has no lines.
    (files / "old").write_text(V1.replace("num_output: 4", "num_output: 8"))
    assert cli("diff", "a", "old", "--format", "github", cwd=files).stdout.startswith("::error file=old::conv")
    assert cli("diff", "b", "binary", "--format", "github", cwd=files).stdout.startswith("::error file=binary::conv")
    done = cli("diff", "a", "attention56", "--format", "github", cwd=files)
    assert done.stdout.startswith("::error title=attention56::")


def test_weights(cli, files):
    net = loads(NET, NetParameter)
    net.layer[1].blobs.add(data=[1, 2]).shape.dim.append(2)
    (files / "one.caffemodel").write_bytes(net.SerializeToString())
    net.layer[1].blobs[0].data[1] = 2.5
    (files / "two.caffemodel").write_bytes(net.SerializeToString())
    assert cli("diff", "one.caffemodel", "two.caffemodel", cwd=files).returncode == 0
    done = cli("diff", "--weights", "one.caffemodel", "two.caffemodel", cwd=files)
    assert (done.returncode, done.stdout) == (1, "conv[0]: 2  max abs 0.5, relative 0.2\n")
    assert done.stderr == "1 of 1 blobs differ\n"
    document = json.loads(cli("diff", "--weights", "one.caffemodel", "two.caffemodel", "--json", cwd=files).stdout)
    assert document == {"same": False, "blobs": [{
        "layer": "conv", "index": 0, "old": [2], "new": [2], "max_abs": 0.5, "relative": 0.2, "same": False}]}
    assert cli("diff", "--weights", "one.caffemodel", "one.caffemodel", cwd=files).returncode == 0


@pytest.mark.parametrize("arguments, what", [
    (("a", "missing"), "no network and no file 'missing'"),
    (("a", "attention65"), "did you mean 'attention56'?"),
    (("-", "-"), "cannot both be standard input"),
    (("--weights", "a", "b"), "A: holds no weights"),
    (("--weights", "--phase", "test", "a", "b"), "--phase has no meaning with --weights"),
    (("a", "noise"), "noise: is neither prototxt text nor a binary net"),
    (("a", "typo"), "typo:1:1: NetParameter has no field 'nane'"),
    (("a", "bytes"), "bytes: is neither prototxt text nor a binary net"),
])
def test_no_answer(cli, files, arguments, what):
    (files / "noise").write_bytes(b"\xff\xfe\x00\x01")
    (files / "typo").write_text('nane: "x"')
    # A binary net whose layer has a name that is no text.
    (files / "bytes").write_bytes(b"\xa2\x06\x03\x0a\x01\xff")
    done = cli("diff", *arguments, cwd=files)
    assert done.returncode == 2 and done.stdout == "" and what in done.stderr
    assert "Traceback" not in done.stderr
