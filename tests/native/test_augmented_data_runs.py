"""AugmentedData in use: damaged images, refusals, nets that end early, a training that goes on where it stood."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from augmented_images import Datum, encoded, layer, list_of, lmdb_of, picture, pictures
from prototxt_gen.train import caffe


def test_damaged_images_are_skipped_with_one_line_each(caffe_log):
    images = [picture(40, 40, seed=i) for i in range(12)]
    values = [encoded(image, i, ".jpg") for i, image in enumerate(images)]
    cut = Datum.FromString(values[1])
    cut.data = cut.data[:len(cut.data) // 3]
    huge = Datum.FromString(values[5])
    at = huge.data.index(b"\xff\xc0") + 5
    huge.data = huge.data[:at] + b"\xff\x00" * 2 + huge.data[at + 4:]
    bad = {
        1: (cut.SerializeToString(), "Premature end of JPEG file"),
        3: (Datum(encoded=True, data=b"no image at all").SerializeToString(), "is no image of a known format"),
        4: (b"\xff\xff\xff", "is not a Datum"),
        5: (huge.SerializeToString(), "is too large: 65280 x 65280"),
        7: (Datum(channels=3, height=2, width=2, float_data=[1] * 12).SerializeToString(), "holds float_data"),
        8: (Datum(channels=3, height=2, width=2, data=b"12345").SerializeToString(),
            "is a raw Datum of 3 x 2 x 2 with 5 bytes"),
        11: (Datum(label=1).SerializeToString(), "is empty"),
    }
    lmdb_of("set", [bad[i][0] if i in bad else value for i, value in enumerate(values)])
    texts = [layer(f'source: "set" crop: CENTER resize_short: 20 batch_size: 6 crop_size: 20 threads: {n} shuffle: {s}')
             for n, s in ((1, "false"), (5, "false"), (3, "true"))]
    lines = caffe_log(f"""
for i, text in enumerate({texts!r}):
    net = net_of(text)
    found = []
    for _ in range(8):
        net.forward()
        found.append(net.blobs["label"].data.copy())
    np.save(f"labels{{i}}.npy", found)
""")
    warnings = [line.partition("] ")[2] for line in lines if re.match(r"W\d", line)]
    assert len(warnings) == 3 * len(bad)
    for run in range(3):
        mine = warnings[run * len(bad):][:len(bad)]
        assert [int(re.search(r"(\d+) skipped so far$", line).group(1)) for line in mine] == [1, 2, 3, 4, 5, 6, 7]
        for index, (_, why) in bad.items():
            start = f"layer 'data': image {index} ('{index:08d}_image{index}') is skipped: {why}"
            assert sum(line.startswith(start) for line in mine) == 1
    for run in (0, 1):
        assert (np.load(f"labels{run}.npy").reshape(4, 12) == [0, 2, 2, 6, 6, 6, 6, 9, 9, 9, 10, 0]).all()
    shuffled = np.load("labels2.npy").reshape(4, 12)
    assert (np.unique(shuffled) == [0, 2, 6, 9, 10]).all()
    assert all(len(set(epoch)) >= 4 for epoch in shuffled)


@pytest.mark.parametrize("fields, message", [
    ('source: "nowhere"', "cannot open the LMDB 'nowhere'"),
    ('source: "nowhere" backend: LIST', "cannot read the list 'nowhere'"),
    ('source: "odd" backend: LIST', "line 2 of the list 'odd' is not 'path label'"),
    ('source: "empty" backend: LIST', "the list 'empty' names no image"),
    ('source: "dead" backend: LIST', "2 images in a row cannot be read"),
    ("", "augmented_data_param needs a source"),
    ('source: "dead" min_area: 0.5 max_area: 0.4', "0 < min_area <= max_area <= 1 must hold"),
    ('source: "dead" min_aspect: 0', "0 < min_aspect <= max_aspect must hold"),
    ('source: "dead" channels: 2', "augmented_data_param.channels must be 1 or 3"),
    ('source: "dead" channels: 1 pca_std: 0.1', "saturation and pca_std change colours, and channels is 1"),
    ('source: "dead" contrast: -1', "must not be negative"),
    ('source: "dead" mean_value: 1 mean_value: 2', "must be given once, or once for each of 3 channels"),
    ('source: "dead" mean_value: 1 mean_file: "x"', "has both mean_file and mean_value"),
    ('source: "dead" prefetch: 0', "augmented_data_param.prefetch must be at least 1"),
])
def test_refusals(refusal, fields, message):
    Path("odd").write_text("a.png 1\nb.png one\n")
    Path("empty").write_text(" \n\n")
    Path("dead").write_text("a.png 1\nb.png 2\n")
    assert message in refusal(layer(f"{fields} batch_size: 2 crop_size: 8"), "net.forward()")


def test_sizes_must_be_given(refusal):
    assert "needs a batch_size" in refusal(layer('source: "x" crop_size: 8'))
    assert "needs a crop_size" in refusal(layer('source: "x" batch_size: 8'))


def test_nets_end_cleanly_while_images_are_being_made(in_caffe):
    source = list_of(pictures(9, 200, 300))
    text = layer(f"{source} batch_size: 16 crop_size: 100 threads: 4 prefetch: 3", tops=("data",))
    told = in_caffe(f"""
import os
for i in range(25):
    net = net_of('''{text}''')
    if i % 2:
        net.forward()
    del net
out = [len(os.listdir("/proc/self/task")), list(net_of('''{text}''').blobs)]
""")
    # The threads of OpenBLAS and of the last net may remain, those of 25 nets do not.
    assert told[0] < 25 and told[1] == ["data"]


NET = """
{train}{test}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param {{ num_output: 6 kernel_size: 5
  stride: 3 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "relu" type: "ReLU" bottom: "conv" top: "conv" }}
layer {{ name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" inner_product_param {{ num_output: 3
  weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }}
layer {{ name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy"
  include {{ phase: TEST }} }}
"""
SOLVER = """
net: "{net}" base_lr: 0.002 lr_policy: "fixed" momentum: 0.9 max_iter: 60 display: 1 random_seed: 1 snapshot: 30
snapshot_prefix: "{prefix}" test_iter: 3 test_interval: 30 solver_mode: CPU
"""


def test_caffe_trains_and_a_resumed_run_goes_on_as_if_never_interrupted(caffe_build, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(7)
    images = []
    for i in range(30):
        image = picture(48, 48, seed=i) // 4
        image[:, :, i % 3] += np.uint8(rng.integers(60, 150))
        images.append(image)
    # Every tenth label is wrong, so that there is always something to learn.
    lmdb_of("set", [encoded(image, (i + (i % 10 == 0)) % 3, ".jpg") for i, image in enumerate(images)])
    common = 'source: "set" batch_size: 10 crop_size: 24 mean_value: 60 scale: 0.02'
    test = layer(common, name="test", extra="include { phase: TEST }")

    def losses(name, fields, *arguments):
        train = layer(f"{common} mirror: true seed: 4 {fields}", extra="include { phase: TRAIN }")
        Path(f"{name}.prototxt").write_text(NET.format(train=train, test=test))
        Path(f"{name}_solver.prototxt").write_text(SOLVER.format(net=f"{name}.prototxt", prefix=name))
        done = subprocess.run([str(caffe_build.binary), "train", f"-solver={name}_solver.prototxt", *arguments],
                              capture_output=True, text=True,
                              env={**caffe.child_environment(caffe_build), "OPENBLAS_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr[-2000:]
        accuracies = [float(one) for one in re.findall(r"accuracy = ([\d.]+)", done.stderr)]
        return dict(re.findall(r"Iteration (\d+) .*, loss = ([\d.e+-]+)", done.stderr)), accuracies

    whole, accuracies = losses("whole", "")
    first, last = (np.mean([float(whole[str(i)]) for i in part]) for part in (range(10), range(50, 60)))
    assert last < 0.7 * first and accuracies[-1] > 0.8
    resumed, _ = losses("resumed", "threads: 3 skip: 300", "-snapshot=whole_iter_30.solverstate")
    shared = [str(i) for i in range(31, 60)]
    np.testing.assert_allclose([float(resumed[i]) for i in shared], [float(whole[i]) for i in shared],
                               rtol=1e-5, atol=1e-6)
    from_the_start, _ = losses("again", "", "-snapshot=whole_iter_30.solverstate")
    assert sum(abs(float(from_the_start[i]) - float(whole[i])) > 0.01 for i in shared) > 10
