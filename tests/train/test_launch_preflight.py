"""What is found out before Caffe starts: each of these would abort it."""

import os
from dataclasses import replace

import pytest

from prototxt_gen.core.errors import Error
from prototxt_gen.train import launch


@pytest.fixture
def refusal(job, caffe_build, monkeypatch):
    """Plan the job in its folder and return the error."""
    monkeypatch.chdir(job)

    def plan(solver="solver.prototxt", caffe=caffe_build, **options):
        before = sorted(job.rglob("*"))
        with pytest.raises(Error) as caught:
            launch.plan(solver, caffe, **options)
        assert caught.value.exit_code == 2
        assert sorted(job.rglob("*")) == before
        return str(caught.value)

    return plan


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_command_is_settled_without_writing_anything(job, caffe_build, monkeypatch):
    monkeypatch.chdir(job)
    before = sorted(job.rglob("*"))
    plan = launch.plan("solver.prototxt", caffe_build)
    assert plan.command == (str(caffe_build.binary), "train", "-solver", "solver.prototxt")
    assert (plan.prefix, plan.log, plan.solver_text) == ("snap/tiny", "snap/tiny.log", None)
    assert sorted(job.rglob("*")) == before


def test_gpus_and_weights_become_flags(job, caffe_build, monkeypatch):
    monkeypatch.chdir(job)
    (job / "a.caffemodel").write_text("")
    with_cuda = replace(caffe_build, cuda=True, nccl=True)
    for ids in ("0", "0,1", "all"):
        plan = launch.plan("solver.prototxt", with_cuda, gpu=ids, weights="a.caffemodel")
        assert plan.command[2:] == ("-solver", "solver.prototxt", "-gpu", ids, "-weights", "a.caffemodel")
    with pytest.raises(Error, match="without NCCL"):
        launch.plan("solver.prototxt", replace(with_cuda, nccl=False), gpu="0,1")


def test_cpu_overrules_a_solver_that_says_gpu(job, caffe_build, monkeypatch):
    monkeypatch.chdir(job)
    edit(job / "solver.prototxt", "solver_mode: CPU", "solver_mode: GPU")
    plan = launch.plan("solver.prototxt", replace(caffe_build, cuda=True), cpu=True)
    assert plan.command[2:] == ("-solver", "snap/tiny.cpu-solver.prototxt")
    assert "solver_mode: CPU" in plan.solver_text and 'snapshot_prefix: "snap/tiny"' in plan.solver_text


@pytest.mark.parametrize("written, settled", [
    ("", "solver"),
    ('snapshot_prefix: "there"', "there/solver"),
    ('snapshot_prefix: "new/"', "new/solver"),
    ('snapshot_prefix: "new/x.y"', "new/x.y"),
])
def test_the_snapshot_prefix_is_settled_as_caffe_settles_it(job, caffe_build, monkeypatch, written, settled):
    monkeypatch.chdir(job)
    (job / "there").mkdir()
    edit(job / "solver.prototxt", 'snapshot_prefix: "snap/tiny"', written)
    assert launch.plan("solver.prototxt", caffe_build).prefix == settled


def test_contradicting_options(refusal):
    assert "--cpu and --gpu exclude one another" in refusal(cpu=True, gpu="0")
    assert "--snapshot and --weights exclude one another" in refusal(snapshot="a", weights="b")
    for ids in ("", "x", "0,", "-1", "0 1"):
        assert "names no GPUs" in refusal(gpu=ids)


def test_a_caffe_without_cuda(refusal, job):
    assert "built for the CPU only" in refusal(gpu="0")
    edit(job / "solver.prototxt", "solver_mode: CPU", "solver_mode: GPU")
    assert "solver.prototxt: solver_mode is GPU" in refusal()


def test_solvers_that_cannot_be_read(refusal, job):
    assert "none.prototxt: cannot be read: No such file" in refusal("none.prototxt")
    assert "must be a file" in refusal("-")
    edit(job / "solver.prototxt", "base_lr", "base_lrr")
    message = refusal()
    assert "solver.prototxt:4:1: SolverParameter has no field 'base_lrr'" in message
    assert "hint: did you mean 'base_lr'?" in message
    edit(job / "solver.prototxt", "base_lrr: 0.01", "base_lr: fast")
    assert "solver.prototxt:4:10:" in refusal()


def test_solvers_without_a_net_of_their_own(refusal, job):
    edit(job / "solver.prototxt", 'net: "net.prototxt"', "")
    assert "names no training net" in refusal()
    edit(job / "solver.prototxt", "base_lr", 'net: "net.prototxt" train_net: "net.prototxt" base_lr')
    assert "names its training net twice: net, train_net" in refusal()


def test_a_net_that_is_not_there(refusal, job, monkeypatch):
    (job / "elsewhere").mkdir()
    monkeypatch.chdir(job / "elsewhere")
    message = refusal("../solver.prototxt")
    assert "../solver.prototxt: there is no net 'net.prototxt'" in message
    assert "hint: Caffe takes paths from the current directory: run it in '..'" in message


def test_a_net_that_does_not_parse(refusal, job):
    edit(job / "net.prototxt", "kernel_size", "kernal_size")
    message = refusal()
    assert "net.prototxt:" in message and "did you mean 'kernel_size'?" in message


def test_a_layer_that_the_caffe_lacks(refusal, job, caffe_build):
    edit(job / "net.prototxt", '"ReLU"', '"Relu"')
    message = refusal()
    assert "net.prototxt: layer 'relu1' has the type 'Relu', which this Caffe lacks" in message
    assert "did you mean 'ReLU'?" in message
    edit(job / "net.prototxt", '"Relu"', '"BN"')
    stock = replace(caffe_build, layers=tuple(one for one in caffe_build.layers if one not in ("BN", "Interp")))
    message = refusal(caffe=stock)
    assert "has the type 'BN', which this Caffe lacks" in message and "prototxt-gen caffe build" in message


def test_only_the_layers_that_will_be_there_are_looked_at(job, caffe_build, monkeypatch):
    monkeypatch.chdir(job)
    edit(job / "net.prototxt", 'name: "tiny"', 'name: "tiny"'
         ' layer { name: "x" type: "None" include { stage: "deploy" } }'
         ' layer { name: "y" type: "None" exclude { phase: TRAIN } exclude { phase: TEST } }'
         ' layer { name: "z" type: "None" include { min_level: 1 } }')
    launch.plan("solver.prototxt", caffe_build)
    edit(job / "net.prototxt", 'source: "set/test_lmdb"', 'source: "none"')
    edit(job / "solver.prototxt", "test_iter: 2", "")
    edit(job / "solver.prototxt", "test_interval: 10", "")
    launch.plan("solver.prototxt", caffe_build)


def test_an_lmdb_that_is_missing_or_empty_or_truncated(refusal, job):
    edit(job / "net.prototxt", '"set/train_lmdb"', '"sat/train_lmdb"')
    message = refusal()
    assert "net.prototxt: layer 'data' cannot read 'sat/train_lmdb': there is no such LMDB" in message
    edit(job / "net.prototxt", '"sat/train_lmdb"', '"set"')
    assert "there is no data.mdb in it" in refusal()
    edit(job / "net.prototxt", '"set"', '"set/train_lmdb"')
    database = job / "set" / "test_lmdb" / "data.mdb"
    os.truncate(database, 20000)
    assert "layer 'data' cannot read 'set/test_lmdb': is truncated: 20000 bytes of" in refusal()


def test_an_lmdb_read_as_a_leveldb(refusal, job):
    edit(job / "net.prototxt", "backend: LMDB", "")
    assert "write 'backend: LMDB' in its data_param" in refusal()
    edit(job / "net.prototxt", '"set/train_lmdb"', '"none"')
    assert "reads 'none', which is no folder" in refusal()


def test_crop_and_mean_that_do_not_fit_the_images(refusal, job):
    edit(job / "net.prototxt", "scale: 0.0078", "scale: 0.0078 crop_size: 29")
    assert "layer 'data' crops 29x29 out of images of 28x28" in refusal()
    edit(job / "net.prototxt", "crop_size: 29", "mean_value: 1 mean_value: 2")
    assert "2 values of mean_value for images of 3 channels" in refusal()
    edit(job / "net.prototxt", "mean_value: 1 mean_value: 2", 'mean_file: "mean.binaryproto"')
    assert "layer 'data' reads 'mean.binaryproto', which is no file" in refusal()


def test_lists_of_files_that_are_not_there(refusal, job):
    net = (job / "net.prototxt").read_text()
    start = net.index("layer")
    (job / "net.prototxt").write_text('layer { name: "list" type: "ImageData" top: "data" top: "label"'
                                      ' image_data_param { source: "list.txt" } }' + net[start:])
    assert "layer 'list' reads 'list.txt', which is no file" in refusal()


def test_snapshots_and_weights_that_cannot_be_used(refusal, job):
    assert "there is no such snapshot" in refusal(snapshot="none.solverstate")
    assert "there are no such weights" in refusal(weights="net.prototxt,none.caffemodel")
    (job / "a.solverstate").write_bytes(b"\x08")
    assert "is not a solver state, or is truncated" in refusal(snapshot="a.solverstate")
    (job / "a.solverstate").write_bytes(b"")
    assert "is not a solver state, or is truncated" in refusal(snapshot="a.solverstate")
    (job / "a.solverstate").write_bytes(b"\x08\x05\x12\x01x")
    assert "the weights it names are not there: 'x'" in refusal(snapshot="a.solverstate")
    (job / "a.caffemodel").write_bytes(b"")
    assert "use --weights" in refusal(snapshot="a.caffemodel")
    edit(job / "solver.prototxt", "base_lr", 'weights: "gone.caffemodel" base_lr')
    assert "gone.caffemodel: there are no such weights" in refusal()
