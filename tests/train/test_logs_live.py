"""The log of a training that runs: snapshots, last lines, what is shown of it."""

import pytest

from prototxt_gen.train.logs_live import LiveLog

HEAD = "I1122 18:00:00.000001  4242 solver.cpp:218] "


def read(*lines):
    log = LiveLog()
    for line in lines:
        log.feed(line)
    return log


def test_each_test_net_has_its_last_test_and_an_interrupted_one_does_not_count():
    log = read(*(
        line
        for iteration in (0, 10)
        for net in (0, 1)
        for line in (HEAD + f"Iteration {iteration}, Testing net (#{net})",
                     HEAD + f"    Test net output #0: accuracy = 0.{iteration}{net}")
    ), HEAD + "Iteration 20, Testing net (#0)", HEAD + "Test interrupted.", HEAD + "Optimization stopped early.")
    assert [(one.iteration, one.net, one.outputs) for one in log.last_tests()] == [
        (10, 0, {"accuracy": 0.1}), (10, 1, {"accuracy": 0.101})]
    assert log.history.stopped_early and log.iteration == 20


def test_a_snapshot_counts_when_something_comes_after_it():
    lines = [HEAD + "Snapshotting to binary proto file snap/a b_iter_40.caffemodel",
             HEAD + "Snapshotting solver state to binary proto file snap/a b_iter_40.solverstate"]
    log = read(*lines)
    assert (log.iteration, log.snapshots) == (40, [])
    log.finish()
    assert log.snapshots == ["snap/a b_iter_40.solverstate"]
    assert read(*lines, HEAD + "Iteration 41, lr = 0.1").snapshots == ["snap/a b_iter_40.solverstate"]
    assert read(*lines, "F1122 18:00:00.000001 42 io.cpp:67] Check failed: proto.Serialize").snapshots == []


def test_snapshots_of_hdf5_and_of_2014():
    log = read(HEAD + "Snapshotting to HDF5 file s_iter_7.caffemodel.h5",
               HEAD + "Snapshotting solver state to HDF5 file s_iter_7.solverstate.h5", HEAD + "Optimization Done.")
    assert (log.iteration, log.snapshots) == (7, ["s_iter_7.solverstate.h5"])
    log = read(HEAD + "Snapshotting to s_iter_7.caffemodel", HEAD + "Snapshotting solver state to s_iter_7.solverstate",
               HEAD + "Optimization Done.")
    assert (log.iteration, log.snapshots) == (7, ["s_iter_7.solverstate"])


def test_a_failed_check_without_its_stack_trace():
    log = read(
        HEAD + "Creating layer data",
        "F1122 18:00:00.000001 42 db_lmdb.hpp:15] Check failed: mdb_status == 0 (2 vs. 0) No such file",
        "*** Check failure stack trace: ***",
        "    @     0x7f0000000000  google::LogMessage::Fail()",
        "    @     0x7f0000000000  (unknown)",
    )
    assert log.fatal == ["Check failed: mdb_status == 0 (2 vs. 0) No such file"]
    assert log.tail[-1].endswith("No such file")


def test_the_first_of_two_failures_stays_though_another_process_sets_up():
    log = read("F1122 18:00:00.000001 42 common.cpp:151] Check failed: error == cudaSuccess (101 vs. 0)",
               "F1122 18:00:00.000002 43 nccl.cpp:9] Check failed: result == ncclSuccess (2 vs. 0)",
               "I1122 18:00:00.000003 41 solver.cpp:45] Initializing solver from parameters: ", "max_iter: 100")
    assert [line.split(" == ")[0] for line in log.fatal] == ["Check failed: error", "Check failed: result"]


def test_the_end_of_the_log_leaves_out_the_nets_that_caffe_writes_out():
    net = ["layer {", '  name: "x"', "  relu_param {", "  }", "}", ""]
    log = read(HEAD + "Initializing net from parameters: ", *net,
               "[libprotobuf ERROR text_format.cc:307] Error", "terminate called after throwing", "  what():  bad")
    assert [line.split()[0] for line in log.tail] == ["I1122", "[libprotobuf", "terminate", "what():"]


def test_only_the_end_of_a_long_log_is_kept():
    log = read(*(f"line {number}" for number in range(100)))
    assert log.tail == [f"line {number}" for number in range(92, 100)]


@pytest.mark.parametrize("line, watched", [
    (HEAD + "Iteration 10 (3.5 iter/s, 2.8s/10 iters), loss = 1.25", True),
    (HEAD + "    Train net output #0: loss = 2.4 (* 1 = 2.4 loss)", True),
    (HEAD + "    Test net output #1: accuracy = 0.4", True),
    (HEAD + "Snapshotting to HDF5 file a_iter_1.caffemodel.h5", True),
    (HEAD.replace("I", "W", 1) + "anything", True),
    (HEAD.replace("I", "E", 1) + "anything", True),
    (HEAD.replace("I", "F", 1) + "Check failed: x", True),
    ("printed by a Python layer", True),
    (HEAD + "Creating Layer conv1", False),
    ("[1,0]<stderr>:" + HEAD + "Iteration 10, lr = 0.1", True),
    ("[1,0]<stderr>:" + HEAD + "Creating Layer conv1", False),
    (HEAD + "Ignoring source layer conv1_split", False),
    ("  relu_param {", False),
    ('  name: "x"', False),
    ("*** Check failure stack trace: ***", False),
    ("    @     0x7f0000000000  (unknown)", False),
])
def test_what_one_watches_a_training_by(line, watched):
    assert read(line).is_watched == watched


def test_a_net_that_glog_cuts_off_is_not_watched():
    log = read(HEAD + "Initializing net from parameters: ", "layer {", "  convolution_param {", "    weight_filler ")
    assert not log.is_watched and len(log.tail) == 1
    log.feed("printed by a Python layer")
    assert log.is_watched and len(log.tail) == 2
