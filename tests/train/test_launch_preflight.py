"""What is found out before Caffe starts: each of these would abort it."""

import os
import shutil
import tempfile
from dataclasses import replace

import pytest

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error
from prototxt_gen.train import launch, preflight, preflight_run
from prototxt_gen.train.lmdb_file import check_lockable
from prototxt_gen.train.preflight import check_results


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


def write_weights(path, *names):
    net = DEFAULT_DIALECT.message("NetParameter")()
    for name in names:
        net.layer.add(name=name).blobs.add(data=[1.0])
    path.write_bytes(net.SerializeToString())


def test_the_command_is_settled_without_writing_anything(job, caffe_build, monkeypatch):
    monkeypatch.chdir(job)
    before = sorted(job.rglob("*"))
    plan = launch.plan("solver.prototxt", caffe_build)
    assert plan.command == (str(caffe_build.binary), "train", "-solver", "solver.prototxt")
    assert (plan.prefix, plan.log, plan.solver_text) == ("snap/tiny", "snap/tiny.log", None)
    assert sorted(job.rglob("*")) == before


def test_gpus_and_weights_become_flags(job, caffe_build, monkeypatch):
    monkeypatch.chdir(job)
    write_weights(job / "a.caffemodel", "fc")
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
    write_weights(job / "fc.caffemodel", "fc")
    assert "none.caffemodel: there are no such weights" in refusal(weights="fc.caffemodel,none.caffemodel")
    (job / "a.solverstate").write_bytes(b"\x08")
    assert "is no solver state" in refusal(snapshot="a.solverstate")
    (job / "a.solverstate").write_bytes(b"")
    assert "is no solver state" in refusal(snapshot="a.solverstate")
    (job / "a.solverstate").write_bytes(b"\x08\x05\x12\x01x")
    assert "the weights it names are not there: 'x'" in refusal(snapshot="a.solverstate")
    (job / "a.caffemodel").write_bytes(b"")
    assert "use --weights" in refusal(snapshot="a.caffemodel")
    edit(job / "solver.prototxt", "base_lr", 'weights: "gone.caffemodel" base_lr')
    assert "gone.caffemodel: there are no such weights" in refusal()


def test_weights_that_caffe_would_pass_over(refusal, job, caffe_build):
    weights = job / "a.caffemodel"
    weights.write_bytes(b"")
    assert "a.caffemodel: is no caffemodel" in refusal(weights="a.caffemodel")
    write_weights(weights, "fc")
    weights.write_bytes(weights.read_bytes()[:-3])
    assert "a.caffemodel: is no caffemodel, or is truncated" in refusal(weights="a.caffemodel")
    write_weights(weights, "other")
    message = refusal(weights="a.caffemodel")
    assert "a.caffemodel: holds weights for no layer of the net 'net.prototxt'" in message
    assert "hint: it has other" in message
    edit(job / "solver.prototxt", "base_lr", 'weights: "a.caffemodel" base_lr')
    assert "a.caffemodel: holds weights for no layer" in refusal()


def test_weights_of_older_caffes_and_of_hdf5_are_taken(job, caffe_build, monkeypatch):
    monkeypatch.chdir(job)
    net = DEFAULT_DIALECT.message("NetParameter")()
    net.layers.add(name="fc").blobs.add(data=[1.0])
    (job / "v1.caffemodel").write_bytes(net.SerializeToString())
    net.ClearField("layers")
    v0 = net.layers.add().layer
    v0.name = "fc"
    v0.blobs.add(data=[1.0])
    (job / "v0.caffemodel").write_bytes(net.SerializeToString())
    launch.plan("solver.prototxt", caffe_build, weights="v1.caffemodel,v0.caffemodel")


def test_folders_in_the_place_of_files(refusal, job):
    assert "set: is a folder, not a snapshot" in refusal(snapshot="set")
    assert "set: is a folder, not weights" in refusal(weights="set")
    assert "set: is a folder, not a file for the log" in refusal(log="set")
    edit(job / "solver.prototxt", "net.prototxt", "set")
    assert "solver.prototxt: the net 'set' is a folder" in refusal()


def test_results_that_have_no_place(refusal, job):
    assert f"net.prototxt/log: cannot be written: '{job}/net.prototxt' is no folder" in refusal(log="net.prototxt/log")
    edit(job / "solver.prototxt", "snap/tiny", "net.prototxt/deep/tiny")
    assert f"net.prototxt/deep/tiny: cannot be written: '{job}/net.prototxt' is no folder" in refusal()


@pytest.mark.parametrize("old, new, message", [
    ("base_lr", 'type: "Nestrov" base_lr', "Caffe has no solver of the type 'Nestrov'\nhint: did you mean 'Nesterov'?"),
    ('"fixed"', '"setp"', "Caffe has no learning rate policy 'setp'\nhint: did you mean 'step'?"),
    ('lr_policy: "fixed"', "", "the solver has no lr_policy"),
    ('"fixed"', '"step" gamma: 0.1', "lr_policy 'step' needs stepsize"),
    ('"fixed"', '"multistep" gamma: 0.1', "lr_policy 'multistep' needs stepvalue"),
    ('"fixed"', '"poly"', "lr_policy 'poly' needs power"),
])
def test_methods_that_caffe_lacks(refusal, job, old, new, message):
    edit(job / "solver.prototxt", old, new)
    assert f"solver.prototxt: {message}" in refusal()


@pytest.fixture
def as_a_user(temporary_files):
    """A folder that others may enter, and the rights of a user that owns nothing: root may write everywhere."""
    # Not in pytest's folder, which is closed to others.
    folder = tempfile.mkdtemp(dir=temporary_files)
    user = os.geteuid()

    def drop():
        if user == 0:
            os.seteuid(65534)

    os.chmod(folder, 0o755)
    yield folder, drop
    os.seteuid(user)
    os.chmod(folder, 0o755)
    shutil.rmtree(folder)


def test_an_lmdb_whose_lock_cannot_be_written(as_a_user):
    folder, drop = as_a_user
    lock = os.path.join(folder, "lock.mdb")
    with open(lock, "w"):
        pass
    check_lockable(folder)
    os.chmod(lock, 0o444)
    os.chmod(folder, 0o555)
    drop()
    with pytest.raises(Error, match="its lock file '.*lock.mdb' is not writable"):
        check_lockable(folder)
    os.seteuid(os.getuid())
    os.chmod(folder, 0o755)
    os.unlink(lock)
    check_lockable(folder)
    os.chmod(folder, 0o555)
    drop()
    with pytest.raises(Error, match="the folder is not writable"):
        check_lockable(folder)


def test_results_that_may_not_be_written(as_a_user):
    folder, drop = as_a_user
    prefix, log = os.path.join(folder, "new", "tiny"), os.path.join(folder, "log")
    with open(log, "w"):
        pass
    os.chmod(log, 0o444)
    check_results(prefix, "/dev/null")
    os.chmod(folder, 0o555)
    drop()
    with pytest.raises(Error, match="new/tiny: cannot be written: the folder '.*' is not writable"):
        check_results(prefix, "/dev/null")
    os.seteuid(os.getuid())
    os.chmod(folder, 0o777)
    drop()
    check_results(prefix, "/dev/null")
    with pytest.raises(Error, match="log: the log cannot be written: permission denied"):
        check_results(prefix, log)
    assert os.listdir(folder) == ["log"]


def test_a_test_of_more_images_than_there_are_is_told(caffe_build, job, monkeypatch):
    """Of 40 images; the job's own two batches of 20 are just these."""
    def told():
        return [line for line in launch.plan("solver.prototxt", caffe_build).told if "a test takes" in line]

    monkeypatch.chdir(job)
    assert told() == []
    edit(job / "solver.prototxt", "test_iter: 2", "test_iter: 7")
    assert told() == ["note: a test takes 7 batches of 20 of the 40 images in 'set/test_lmdb': test_iter: 2 goes "
                      "through them once"]
    edit(job / "net.prototxt", 'test_lmdb" batch_size: 20', 'test_lmdb" batch_size: 6')
    assert told() == []  # the seventh batch has the last four
    edit(job / "solver.prototxt", "test_iter: 7", "test_iter: 8")
    assert [line.partition("lmdb': ")[2] for line in told()] == ["test_iter: 7 goes through them once"]


def test_snapshots_in_hdf5_need_a_place_for_each_layer(caffe_build, job, monkeypatch):
    """Caffe makes a group of each layer's name, and none on the way to it."""
    monkeypatch.chdir(job)
    solver = (job / "solver.prototxt").read_text()
    (job / "solver.prototxt").write_text(f"{solver}\nsnapshot_format: HDF5\n")

    def check():
        read = preflight.read_solver("solver.prototxt")
        preflight_run.check_groups(preflight.used_nets(read, "solver.prototxt")[0], read)

    check()
    edit(job / "net.prototxt", 'name: "fc"', 'name: "pool1/fc"')
    check()
    edit(job / "net.prototxt", 'name: "pool1/fc"', 'name: "head/fc"')
    with pytest.raises(Error) as caught:
        check()
    assert str(caught.value) == ("net.prototxt: HDF5 snapshots have no place for layer 'head/fc': no layer before it "
                                 "is called 'head'\nhint: leave snapshot_format at BINARYPROTO, Caffe's default")
    (job / "solver.prototxt").write_text(solver)
    check()


def test_this_caffe_takes_no_weights_from_hdf5(refusal, run_caffe_python, job):
    """It would start, or go on, from random ones without a word: as long as that is so, it is refused."""
    found = run_caffe_python("""
        import numpy, sys
        import caffe
        net = caffe.Net(sys.argv[1], caffe.TRAIN)
        net.save_hdf5(sys.argv[2])
        before = [blob.data.copy() for blobs in net.params.values() for blob in blobs]
        for blobs in net.params.values():
            for blob in blobs:
                blob.data[...] += 1
        net.copy_from(sys.argv[2])
        after = [blob.data for blobs in net.params.values() for blob in blobs]
        print(all(numpy.array_equal(one + 1, other) for one, other in zip(before, after)))
        """, job / "net.prototxt", job / "a.caffemodel.h5").stdout
    assert found == "True\n"
    message = refusal(weights="a.caffemodel.h5")
    assert "a.caffemodel.h5: this Caffe loads no weights from HDF5" in message and "--out-weights" in message
    edit(job / "solver.prototxt", "max_iter: 20", "snapshot_format: HDF5 max_iter: 20")
    assert "this Caffe cannot resume from HDF5 snapshots" in refusal()
