"""``prototxt-gen convert``: passes with their options, weights in and out, reports, and what is refused."""

import json

import numpy as np
import pytest

from prototxt_gen.core.caffemodel import read_weights

NET = """
name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 9 dim: 9 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4 kernel_size: 3 bias_term: false } }
layer { name: "conv/bn" type: "BN" bottom: "conv" top: "conv/bn" bn_param { frozen: true } }
layer { name: "relu" type: "ReLU" bottom: "conv/bn" top: "conv/bn" }
layer { name: "late/bn" type: "BN" bottom: "conv/bn" top: "late/bn" bn_param { frozen: true } }
layer { name: "late/relu" type: "ReLU" bottom: "late/bn" top: "late/bn" }
"""


@pytest.fixture
def folder(tmp_path, cli):
    """A net, and its weights in w.caffemodel."""
    (tmp_path / "net").write_text(NET)
    done = cli("convert", "net", "--pass", "seed-weights", "--seed", 1, "--out-weights", "w.caffemodel", "-o", "again",
               cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"net", "again", "w.caffemodel"}
    return tmp_path


def test_passes_run_in_the_order_given_and_tell_coverage_and_reasons(cli, folder):
    arguments = ["convert", "net", "--weights", "w.caffemodel", "--pass", "fold-bn", "--pass", "split-bn"]
    done = cli(*arguments, "-o", "out", "--out-weights", "out.caffemodel", "--report", "report.json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "fold-bn: folded 1 of 2 BN" in done.stderr and "left 1: " in done.stderr and "(late/bn)" in done.stderr
    report = json.loads((folder / "report.json").read_text())["passes"]
    assert [one["pass"] for one in report] == ["fold-bn", "split-bn"]
    assert [one["layer"] for one in report[0]["skipped"]] == ["late/bn"] and report[0]["edits"]
    assert 'type: "BN"' not in (folder / "out").read_text()
    assert set(read_weights(str(folder / "out.caffemodel")).blobs) == {"conv", "late/bn", "late/bn/scale"}
    assert cli(*arguments, "--strict", cwd=folder).returncode == 1
    assert cli(*arguments, "--check", "out", cwd=folder).returncode == 0
    assert cli(*arguments, "--check", "net", cwd=folder).returncode == 1


def test_a_caffemodel_brings_its_net_and_its_weights(cli, folder):
    done = cli("convert", "w.caffemodel", "--pass", "rename", "--rename", "(.*)/bn=norm_\\1", "--out-weights", "out",
               cwd=folder)
    assert done.returncode == 0 and 'name: "norm_conv"' in done.stdout
    old, new = (read_weights(str(folder / name)).blobs for name in ("w.caffemodel", "out"))
    assert set(new) == {"conv", "norm_conv", "norm_late"}
    for index in range(4):
        np.testing.assert_array_equal(old["conv/bn"][index], new["norm_conv"][index])


def test_weights_in_the_place_of_those_read(cli, folder):
    before = read_weights(str(folder / "w.caffemodel")).blobs["conv"][0]
    done = cli("convert", "net", "--weights", "w.caffemodel", "--pass", "rename", "--rename", "conv=first",
               "--out-weights", "w.caffemodel", "-o", "net", cwd=folder)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(read_weights(str(folder / "w.caffemodel")).blobs["first"][0], before)


def test_names_from_a_file(cli, folder):
    (folder / "map").write_text("conv first\n")
    done = cli("convert", "-", "--pass", "rename", "--map", "map", stdin=NET, cwd=folder)
    assert done.returncode == 0 and 'name: "first"' in done.stdout and 'name: "conv"' not in done.stdout


def test_weights_that_are_not_written_are_mentioned(cli, folder):
    done = cli("convert", "net", "--weights", "w.caffemodel", "--pass", "split-bn", cwd=folder)
    assert done.returncode == 0 and "--out-weights FILE writes them" in done.stderr


@pytest.mark.parametrize("arguments, complaint", [
    (["--pass", "split-bm"], "did you mean 'split-bn'?"),
    (["--pass", "split-bn", "--to", "bvlc"], "--to goes with --pass dialect, which does not run"),
    (["--pass", "batch"], "pass 'batch' needs --batch-size"),
    (["--pass", "rename", "--rename", "conv"], "has no '='"),
    (["--pass", "rename", "--rename", "(=x"], "("),
    (["--pass", "rename", "--map", "missing"], "cannot be read"),
    (["--pass", "split-bn", "--out-weights", "out"], "--weights FILE"),
    (["--pass", "split-bn", "--weights", "missing"], "no weights 'missing'"),
    (["--pass", "split-bn", "--weights", "net"], "holds no weights"),
    (["--pass", "split-bn", "--weights", "w.caffemodel", "--dialect", "bvlc"], "attention"),
    (["--pass", "split-bn", "--weights", "w.caffemodel", "--out-weights", "no/out"], "cannot be written"),
    (["--pass", "dialect", "--to", "bvlc"], "split-bn"),
    (["--pass", "merge-phases"], "pass 'merge-phases' needs --test-net"),
])
def test_what_is_wrong_is_told_and_nothing_is_written(cli, folder, arguments, complaint):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    done = cli("convert", "net", *arguments, "-o", "product", cwd=folder)
    assert done.returncode == 2 and complaint in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert done.stdout == "" and {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_help_lists_every_pass(cli):
    from prototxt_gen.passes.base import registry

    text = cli("convert", "--help").stdout
    for name in registry.names():
        assert f"\n  {name} " in text


@pytest.mark.parametrize("arguments, complaint", [
    (["-o", "w.caffemodel"], "-o would write over --weights, which is of another kind"),
    (["-o", "out", "--report", "w.caffemodel"], "--report would write over --weights"),
    (["-o", "out", "--out-weights", "net"], "--out-weights would write over NET"),
    (["-o", "out", "--out-weights", "./out"], "-o and --out-weights name one file"),
    (["-o", "out", "--out-weights", "-"], "--out-weights - is no file"),
    (["-o", "no/out", "--out-weights", "w.caffemodel"], "no/out: cannot be written"),
    (["-o", "out", "--out-weights", "w.caffemodel", "--report", "no/report"], "no/report: cannot be written"),
])
def test_no_file_is_lost(cli, folder, arguments, complaint):
    """Outputs are written all or none, and never in the place of something else."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    done = cli("convert", "net", "--weights", "w.caffemodel", "--pass", "fold-bn", *arguments, cwd=folder)
    assert done.returncode == 2 and complaint in done.stderr, done.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
