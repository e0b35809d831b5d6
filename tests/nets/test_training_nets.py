"""The training nets in real Caffe: all of them load in both phases, and what freezing BN does to learning."""

import json
import math
import re
from dataclasses import replace

import numpy
import pytest

from prototxt_gen.core.io import dumps
from prototxt_gen.nets.builder import DataEnds, build
from prototxt_gen.nets.configs import NETWORKS, vary
from prototxt_gen.train.data import Image, datum, write_lmdb

LOAD_SCRIPT = """
    import json
    import caffe
    found = {{}}
    for path in {paths!r}:
        for phase in (caffe.TRAIN, caffe.TEST):
            net = caffe.Net(path, phase)
            found[path + str(phase)] = {{name: list(net.blobs[name].shape) for name in
                                         ("data", "classifier", "loss", "accuracy/top1", "accuracy/top5") if name in net.blobs}}
            del net
    print(json.dumps(found))
    """


@pytest.fixture(scope="module")
def striped(tmp_path_factory):
    """An LMDB of images of 10 classes that a small net tells apart: stripes in one of ten directions, with noise."""
    folder = tmp_path_factory.mktemp("striped")
    random = numpy.random.RandomState(0)

    def records(count, size):
        rows, columns = numpy.mgrid[:size, :size]
        for index in range(count):
            label = index % 10
            angle = math.pi * label / 10
            wave = numpy.sin((rows * math.sin(angle) + columns * math.cos(angle)) + random.uniform(0, 6))
            pixels = 128 + 90 * wave + random.normal(0, 10, (3, size, size))
            name = f"{index:08d}"
            yield name, datum(Image(name, label, pixels.clip(0, 255).astype("uint8")))

    write_lmdb(folder / "large", records(10, 240))
    write_lmdb(folder / "small", records(640, 32))
    return folder


def test_every_training_net_loads_in_both_phases(run_caffe_python, striped, tmp_path):
    paths = {}
    for name, config in NETWORKS.items():
        source = str(striped / ("small" if config.input_size == 32 else "large"))
        net = build(config, batch_size=2, test_batch_size=3, data=DataEnds(source, source, config.mean)).net
        paths[name] = str(tmp_path / f"{name}.prototxt")
        (tmp_path / f"{name}.prototxt").write_text(dumps(net))
    found = json.loads(run_caffe_python(LOAD_SCRIPT.format(paths=list(paths.values()))).stdout)
    for name, path in paths.items():
        config = NETWORKS[name]
        for phase, batch in ((0, 2), (1, 3)):
            shapes = found[f"{path}{phase}"]
            assert shapes["data"] == [batch, 3, config.input_size, config.input_size]
            assert shapes["classifier"] == [batch, config.classes] and shapes["loss"] == []
            assert ("accuracy/top1" in shapes) == ("accuracy/top5" in shapes) == (phase == 1)


def small_net(source):
    config = vary(NETWORKS["attention56-cifar"], dict(modules="1,1,1", widths="4,8,8,8", stem_width="8"))
    return build(replace(config, batch_size=40), test_batch_size=40, data=DataEnds(source, source, (128,))).net


SOLVER = """net: "{net}"
type: "Nesterov" momentum: 0.9 weight_decay: 0.0001
base_lr: 0.02 lr_policy: "fixed" max_iter: 40 display: 1
snapshot_prefix: "{prefix}" solver_mode: CPU random_seed: 1
"""


def train(cli, folder, net, name):
    """Train for 40 iterations; return the last ten losses, each of one batch."""
    (folder / f"{name}.prototxt").write_text(dumps(net))
    (folder / f"{name}_solver.prototxt").write_text(SOLVER.format(net=f"{name}.prototxt", prefix=name))
    # Lint would stop the trap.
    done = cli("train", f"{name}_solver.prototxt", "--cpu", "--no-lint", cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return [float(one) for one in re.findall(r"^I.*Train net output #0: loss = (\S+)", done.stderr, re.MULTILINE)][-10:]


WEIGHTS_SCRIPT = """
    import sys
    from caffe.proto import caffe_pb2
    import numpy
    net = caffe_pb2.NetParameter.FromString(open(sys.argv[1], "rb").read())
    blobs = {layer.name: [numpy.array(one.data) for one in layer.blobs] for layer in net.layer}
    print(float(numpy.ptp(blobs["conv1/bn"][0])), float(numpy.ptp(blobs["conv1/bn"][2])),
          float(numpy.abs(blobs["classifier"][0]).max()))
    """


def test_frozen_bn_is_the_trap_that_published_files_lay(cli, caffe_build, run_caffe_python, striped, tmp_path):
    """Trained with the data and the recipe of the net that learns, the published files' BN leaves chance: ln 10.

    ``frozen: true`` and no slope filler, as published: every slope starts at 0 and is never changed, so that nothing
    but the classifier's bias can learn. With the filler but still frozen, BN normalises nothing and learns nothing.
    """
    chance = math.log(10)
    net = small_net(str(striped / "small"))
    learning = train(cli, tmp_path, net, "learning")
    assert sum(learning) / 10 < 0.75 * chance

    as_published = type(net)()
    as_published.CopyFrom(net)
    for layer in as_published.layer:
        if layer.type == "BN":
            layer.ClearField("bn_param")
            layer.ClearField("param")
            layer.bn_param.frozen = True
    frozen = train(cli, tmp_path, as_published, "frozen")
    warned = cli("train", "frozen_solver.prototxt", "--cpu", cwd=tmp_path)
    assert warned.returncode == 2 and "lint finds 106 errors" in warned.stderr
    assert warned.stderr.count("error PG301") == 2 and "PG301: 104 more" in warned.stderr
    assert all(abs(loss - chance) < 0.05 * chance for loss in frozen)

    spread = {name: [float(one) for one in run_caffe_python(
        WEIGHTS_SCRIPT, tmp_path / f"{name}_iter_40.caffemodel").stdout.split()] for name in ("learning", "frozen")}
    assert min(spread["learning"]) > 0
    slopes, means, _ = spread["frozen"]
    assert slopes == 0 and means == 0
