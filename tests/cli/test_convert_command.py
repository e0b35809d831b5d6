"""``prototxt-gen convert --pass upgrade`` writes what Caffe's own upgrade tools write."""

import subprocess
from pathlib import Path

import pytest

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.io import loads

OLD_NETS = sorted((Path(__file__).parent.parent / "core/old_nets").glob("*.prototxt"))


def test_there_are_nets_of_each_age():
    assert {path.name.split("_")[0] for path in OLD_NETS} == {"v0", "v1", "input"}


@pytest.mark.parametrize("path", OLD_NETS, ids=lambda path: path.stem)
def test_old_nets_as_caffes_tool_upgrades_them(cli, caffe_build, tmp_path, path):
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    # It ends with 1, and writes the net, where it had to drop fields of the oldest files.
    subprocess.run([str(caffe_build.binary.with_name("upgrade_net_proto_text")), str(path), str(theirs)],
                   capture_output=True)
    done = cli("convert", path, "--pass", "upgrade", "-o", ours)
    assert done.returncode == 0 and "upgrade: upgraded from " in done.stderr
    net = DEFAULT_DIALECT.message("NetParameter")
    assert loads(ours.read_text(), net) == loads(theirs.read_text(), net)
    assert cli("convert", ours, "--pass", "upgrade").stdout == ours.read_text()


def test_solvers_too(cli, caffe_build, tmp_path):
    old, theirs = tmp_path / "solver.prototxt", tmp_path / "theirs"
    old.write_text('net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" solver_type: NESTEROV snapshot_prefix: "a"\n')
    subprocess.run([str(caffe_build.binary.with_name("upgrade_solver_proto_text")), str(old), str(theirs)], check=True,
                   capture_output=True)
    done = cli("convert", old, "--pass", "upgrade")
    solver = DEFAULT_DIALECT.message("SolverParameter")
    assert done.returncode == 0 and loads(done.stdout, solver) == loads(theirs.read_text(), solver)


@pytest.mark.parametrize("arguments, message", [
    (["attention56", "--pass", "upgarde"], "no pass is called 'upgarde'\nhint: did you mean 'upgrade'?"),
    (["atention56", "--pass", "upgrade"], "there is no network and no file 'atention56'"),
    (["attention56"], "Missing option '--pass'"),
])
def test_mistakes(cli, arguments, message):
    done = cli("convert", *arguments)
    assert done.returncode == 2 and done.stdout == "" and message in done.stderr


def test_a_broken_file_is_explained_as_a_net(cli, tmp_path):
    broken = tmp_path / "broken"
    broken.write_text('layer { nmae: "x" }')
    done = cli("convert", broken, "--pass", "upgrade", "-o", tmp_path / "out")
    assert done.returncode == 2 and "LayerParameter has no field 'nmae'" in done.stderr
    assert not (tmp_path / "out").exists()
