"""Trainings that fail, for real: what their ends mean in words, and what is still there afterwards."""

import os
import re
import signal
import subprocess
import time
from dataclasses import replace

import pytest

from processes import DEADLINE_S, edit
from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error
from prototxt_gen.spec.memory import memory
from prototxt_gen.spec.rules import CAFFE, GPU, OWN
from prototxt_gen.train import launch, launch_failures, preflight, preflight_memory, preflight_nets
from prototxt_gen.train.logs_live import LiveLog

ENDLESS = [("max_iter: 20", "max_iter: 100000000"), ("test_iter: 2\ntest_interval: 10", ""),
           ("snapshot: 10", "snapshot: 0")]


@pytest.fixture
def in_job(cli_path, job, caffe_build):
    """Run a shell script in the job's folder, in a mount namespace of its own; ``$train`` is prototxt-gen train."""

    def run(script):
        done = subprocess.run(["unshare", "--mount", "--map-root-user", "sh", "-ec", script], cwd=job, text=True,
                              capture_output=True, env={**os.environ, "train": f"{cli_path} train"})
        assert "Traceback" not in done.stderr
        return done

    return run


def caffe_says(caffe_build, job, *arguments):
    """Run ``caffe train`` itself, and return its status and what our log reader keeps of its words."""
    (job / "snap").mkdir(exist_ok=True)
    done = subprocess.run([caffe_build.binary, "train", "-solver", "solver.prototxt", *arguments], cwd=job, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    log = LiveLog()
    for line in done.stdout.splitlines():
        log.feed(line)
    return done.returncode, [*log.fatal, *log.tail]


def meaning(caffe_build, job, *arguments):
    status, lines = caffe_says(caffe_build, job, *arguments)
    assert status != 0
    found = launch_failures.meaning(lines, status, caffe_build.layers)
    assert found is not None, lines
    return f"{found.means}: {found.advice}"


NET, SOLVER = "net.prototxt", "solver.prototxt"


@pytest.mark.parametrize("file, old, new, told", [
    (NET, '"ReLU"', '"Relu"', "no layer of the type Relu: did you mean 'ReLU'?"),
    (NET, 'bottom: "pool1" top: "fc"', 'bottom: "pool7" top: "fc"', "reads blob 'pool7', which no layer before"),
    (NET, '"set/train_lmdb"', '"none"', "an LMDB that the net reads is not there"),
    (NET, '"set/train_lmdb"', '"net.prototxt"', "an LMDB cannot be read"),
    (NET, "scale: 0.0078", "scale: 0.0078 crop_size: 29", "an image is smaller than crop_size"),
    (NET, "scale: 0.0078", "scale: 0.0078 mean_value: 1 mean_value: 2", "the mean does not fit the images"),
    (NET, "kernel_size", "kernal_size", "a prototxt does not parse as NetParameter"),
    (SOLVER, "base_lr", "base_lrr", "a prototxt does not parse as SolverParameter"),
    (SOLVER, "snap/tiny", "none/tiny", "the folder of the snapshots is not there or not writable"),
    (NET, 'top: "loss" }', 'top: "loss" } layer { name: "s" type: "Eltwise" bottom: "fc" bottom: "conv1" top: "s" }',
     "a layer joins blobs of different shapes"),
    (NET, 'bottom: "fc" bottom: "label" top: "loss"', 'bottom: "fc" bottom: "data" top: "loss"',
     "labels and predictions do not fit one another"),
])
def test_what_failed_checks_mean(caffe_build, job, file, old, new, told):
    edit(job / file, (old, new))
    assert told in meaning(caffe_build, job)


def test_weights_and_snapshots_of_other_nets(caffe_build, job):
    assert caffe_says(caffe_build, job)[0] == 0
    net = (job / "net.prototxt").read_text()
    edit(job / "net.prototxt", ("num_output: 4", "num_output: 5"))
    told = meaning(caffe_build, job, "-weights", "snap/tiny_iter_20.caffemodel")
    assert "of another shape than this net's: parameter 0 weights from layer 'fc'" in told
    (job / "net.prototxt").write_text(net.replace('name: "relu1" type: "ReLU" bottom: "pool1" top: "pool1"',
                                                  'name: "other" type: "PReLU" bottom: "pool1" top: "pool1"'))
    told = meaning(caffe_build, job, "-snapshot", "snap/tiny_iter_20.solverstate")
    assert "written by another type of solver, or for another net" in told


def test_every_row_of_the_table_can_be_reached():
    """No row hides behind an earlier one: words that a row's pattern is made of bring that row."""
    words = {
        "the GPU's memory ran out": "Check failed: error == cudaSuccess (2 vs. 0)  out of memory",
        "Caffe finds no GPU that it can use": "Check failed: error == cudaSuccess (35 vs. 0)  CUDA driver version is",
        "there is no GPU of that number": "Check failed: error == cudaSuccess (101 vs. 0)  invalid device ordinal",
        "this Caffe was not compiled for this kind of GPU": "error == cudaSuccess (209 vs. 0)  no kernel image is",
        "the GPUs could not talk to one another": "Check failed: result == ncclSuccess (2 vs. 0)",
    }
    for means, line in words.items():
        assert launch_failures.meaning([line], -signal.SIGABRT).means == means
    assert launch_failures.meaning(["Check failed: something new"], -signal.SIGABRT) is None


def test_memory_of_the_computer_that_runs_out(in_job, job):
    edit(job / "net.prototxt", ("batch_size: 20", "batch_size: 60000"))
    done = in_job("ulimit -v 2500000; exec $train solver.prototxt")
    assert done.returncode == 3, done.stderr
    assert "that is: the computer's memory ran out" in done.stderr
    assert "hint: use a smaller batch_size; --total-batch N --iter-size auto" in done.stderr


def test_a_loss_that_is_no_number_is_told_once(cli, job, caffe_build):
    edit(job / "solver.prototxt", ("display: 5", "display: 1"))
    result = cli("train", "solver.prototxt", "--run", "run", "--set", "base_lr=1e30", cwd=job)
    assert result.stderr.count("the loss is no number since iteration") == 1, result.stderr
    assert "a smaller base_lr" in result.stderr
    result = cli("train", "--run", "run", "--resume", cwd=job)
    assert result.returncode == 2 and "no snapshot is left to resume from" in result.stderr
    assert "tiny_iter_20.solverstate: the weights of layer 'conv1' are not finite" in result.stderr


def test_an_lmdb_cut_off_while_it_is_read(cli_path, job, caffe_build):
    edit(job / "solver.prototxt", *ENDLESS)
    process = subprocess.Popen([cli_path, "train", "solver.prototxt"], cwd=job, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    log, deadline = job / "snap" / "tiny.log", time.monotonic() + DEADLINE_S
    while not (log.exists() and "Iteration 10 " in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.truncate(job / "set" / "train_lmdb" / "data.mdb", 8192)
    _, stderr = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 3
    assert "caffe train was ended by SIGBUS" in stderr
    assert "that is: a file ended under Caffe's hands: an LMDB was cut off while it was read" in stderr


def test_a_disk_that_fills_up(in_job, job):
    """One snapshot has room and the next has not; with more room, the training goes on from the first."""
    edit(job / "net.prototxt", ("num_output: 8", "num_output: 200"))
    edit(job / "solver.prototxt", ("test_iter: 2\ntest_interval: 10", ""))
    done = in_job("""
        mkdir run; mount -t tmpfs -o size=2000k tmpfs run
        $train solver.prototxt --run run && exit 99
        echo "code $?" >&2; ls -s run/snapshots >&2
        mount -o remount,size=20000k run
        exec $train --run run --resume
    """)
    first, _, second = done.stderr.partition("code ")
    assert "warning: snapshots: 2 of 1018.8 KiB" in first and "room for 1" in first
    assert second.startswith("3\n") and "a snapshot could not be written" in first, first
    assert "--resume goes on from run/snapshots/tiny_iter_10.solverstate" in first
    assert done.returncode == 0, second
    assert "resuming from run/snapshots/tiny_iter_10.solverstate" in second and "iteration = 20" in done.stdout


def test_no_room_for_a_single_snapshot(in_job):
    done = in_job("mkdir snap; mount -t tmpfs -o size=16k tmpfs snap; exec $train solver.prototxt")
    assert done.returncode == 2
    assert "there is no room for a snapshot: 40.8 KiB wanted, 16.0 KiB free" in done.stderr


@pytest.mark.parametrize("options", ["", "--run snap/run"])
def test_a_folder_that_is_read_only(in_job, job, options):
    done = in_job(f"mkdir snap; mount -t tmpfs -o ro tmpfs snap; exec $train solver.prototxt {options}")
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot be written: the folder" in done.stderr and "is not writable" in done.stderr


def test_commands_for_gpus_are_what_the_program_takes(caffe_build, job, monkeypatch):
    """This Caffe runs on the CPU: it takes every flag, and only then says that it has no GPU."""
    monkeypatch.chdir(job)
    assert caffe_says(caffe_build, job)[0] == 0
    with_gpus = replace(caffe_build, cuda=True, nccl=True)
    cases = [dict(gpu="0"), dict(gpu="0,1"), dict(gpu="all", snapshot="snap/tiny_iter_10.solverstate"),
             dict(gpu="0,1,2,3", weights="snap/tiny_iter_10.caffemodel")]
    for case in cases:
        plan = launch.plan("solver.prototxt", with_gpus, **case)
        said = subprocess.run(plan.command, capture_output=True, text=True)
        assert said.returncode == -signal.SIGABRT
        assert "Cannot use GPU in CPU-only Caffe" in said.stderr or "Using GPUs" in said.stderr, said.stderr
        assert "unknown command line flag" not in said.stderr
    said = subprocess.run([*plan.command, "-gpus", "0"], capture_output=True, text=True)
    assert "unknown command line flag 'gpus'" in said.stderr


def test_few_images_for_batch_normalisation_are_warned_of(cli, job, caffe_build):
    edit(job / "net.prototxt", ('bottom: "pool1" top: "pool1" }', 'bottom: "pool1" top: "pool1" }\n'
         'layer { name: "bn" type: "BN" bottom: "pool1" top: "pool1" bn_param { slope_filler { value: 1 } } }'))
    result = cli("train", "solver.prototxt", "--dry-run", cwd=job)
    assert result.returncode == 0, result.stderr
    assert "warning PG306: layer 'data' (Data) gives 20 images per GPU to batch normalisation" in result.stderr


def relabel(path, label):
    """Give the last record of an LMDB another label."""
    import lmdb

    with lmdb.open(str(path), map_size=2**30) as environment, environment.begin(write=True) as transaction:
        cursor = transaction.cursor()
        cursor.last()
        key, datum = cursor.key(), DEFAULT_DIALECT.message("Datum").FromString(cursor.value())
        datum.label = label
        transaction.put(key, datum.SerializeToString())
    return key.decode()


@pytest.mark.parametrize("label", [4, -1, 2**31 - 1])
def test_labels_outside_the_classifiers_range(caffe_build, job, monkeypatch, label):
    monkeypatch.chdir(job)
    key = relabel(job / "set" / "test_lmdb", label)
    message = f"'set/test_lmdb' holds the label {label} \\(record '{re.escape(key)}'\\).* has 4 classes, 0 to 3"
    with pytest.raises(Error, match=message):
        launch.plan("solver.prototxt", caffe_build)
    ignored = f"loss_param {{ ignore_label: {label} }} }}\nlayer {{ name: \"top1\""
    edit(job / "net.prototxt", ('}\nlayer { name: "top1"', ignored))
    launch.plan("solver.prototxt", caffe_build)


def test_memory_beside_what_is_free(caffe_build, job, monkeypatch):
    monkeypatch.chdir(job)
    assert any(re.fullmatch(r"memory: 2\d\.\d MiB of \S+ GiB free on this computer; batches of up to \d+ fit", line)
               for line in launch.plan("solver.prototxt", caffe_build).told)
    solver = preflight.read_solver("solver.prototxt")
    nets = preflight.used_nets(solver, "solver.prototxt")
    need = preflight_memory.need(nets, solver, GPU)
    # Columns of convolutions and whole indices of poolings count on a GPU; on the CPU what our own engines take does,
    # unless Caffe's are asked for.
    each = [memory(preflight_nets.look_at(net), "SGD") for net in nets]
    for runs in (OWN, CAFFE):
        here = preflight_memory.need(nets, solver, runs)
        assert need.total - here.total == sum(one.spared[runs] for one in each) - each[0].besides[runs]
    assert each[0].spared[OWN] > each[0].spared[CAFFE] == 0 and each[0].besides[OWN] > 0
    own = job.joinpath("net.prototxt").read_text()
    edit(job / "net.prototxt", *((old, f"{old} engine: CAFFE") for old in ("kernel_size: 5", "stride: 2")))
    stock = preflight.used_nets(solver, "solver.prototxt")
    assert all(preflight_memory.need(stock, solver, runs) == need for runs in (OWN, CAFFE, GPU))
    (job / "net.prototxt").write_text(own)
    assert need.batch == 20 and need.total == need.fixed + 20 * need.per_image
    for batch in (1, 7, 20, 1000):
        # What is said of another batch is what is said of a net that has it.
        edit(job / "net.prototxt", ('train_lmdb" batch_size: 20', f'train_lmdb" batch_size: {batch}'))
        other = preflight_memory.need(preflight.used_nets(solver, "solver.prototxt"), solver, GPU)
        assert other.total == need.fixed + batch * need.per_image
        assert need.largest_batch(other.total) == batch == need.largest_batch(other.total + need.per_image - 1)
        edit(job / "net.prototxt", (f'train_lmdb" batch_size: {batch}', 'train_lmdb" batch_size: 20'))
    small, large = (preflight_memory.Place("GPU 1", free, GPU) for free in (2**21, 2**30))
    first, second = preflight_memory.memory_lines(nets, solver, [small, large])
    assert re.fullmatch(r"warning: memory: batch 20 needs 3\.\d MiB of 2\.0 MiB free on GPU 1; .* up to \d fit; "
                        r"batch_size: (\d+) with iter_size: (\d+) sees as many images an update", first)
    batch, iter_size = map(int, re.findall(r"_size: (\d+)", first))
    assert batch * iter_size == 20 and need.fixed + batch * need.per_image <= small.free
    assert need.fixed + 20 // (iter_size - 1) * need.per_image > small.free or 20 % (iter_size - 1)
    assert re.fullmatch(r"memory: 3\.\d MiB of 1\.0 GiB free on GPU 1; batches of up to \d+ fit", second)
