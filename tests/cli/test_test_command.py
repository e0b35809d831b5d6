"""``prototxt-gen test``: what the user sees, and the exit codes. Its numbers are tested in tests/train."""

import io
import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

NET = """
name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 3 } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""
CLASSES = ("blue", "green", "red")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, cli, caffe_build):
    """A net that tells the brightest channel, and 4 images of each of three classes; one blue image lies in red."""
    place = tmp_path_factory.mktemp("colours")
    (place / "net.prototxt").write_text(NET)
    weights = np.kron(np.eye(3), np.ones(64)) / 64
    blobs = "".join(f"data: {value} " for value in weights.ravel())
    (place / "weights.prototxt").write_text(
        NET.replace('top: "fc" inner', f'top: "fc" blobs {{ shape {{ dim: 3 dim: 192 }} {blobs} }} '
                    "blobs { shape { dim: 3 } data: 0 data: 0 data: 0 } inner")
    )
    random = np.random.RandomState(1)
    for label, name in enumerate(CLASSES):
        (place / "images" / name).mkdir(parents=True)
        for number in range(4):
            pixels = random.randint(0, 100, (8, 8, 3)).astype(np.uint8)
            shown = 0 if (name, number) == ("red", 3) else label
            pixels[:, :, 2 - shown] += 100
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            (place / "images" / name / f"{number}.png").write_bytes(buffer.getvalue())
    return place


def test_shares_and_worst_classes_as_text(cli, folder):
    done = cli("test", "net.prototxt", "--weights", "weights.prototxt", "--source", "images", "--mean", "none",
               "--top", "1,3", "--per-class", cwd=folder)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout.splitlines() == [
        "images = 12",
        "top-1 = 91.67% (11)",
        "top-3 = 100.00% (12)",
        "",
        "class  images   right  taken for",
        "red         4   75.0%  blue 1",
        "blue        4  100.0%",
        "green       4  100.0%",
    ]


def test_json_tells_every_class_and_how_images_were_cut(cli, folder):
    arguments = ("test", "net.prototxt", "--weights", "weights.prototxt", "--source", "images", "--json",
                 "--mean", "1,2,3", "--batch-size", 5)
    done = cli(*arguments, cwd=folder)
    found = json.loads(done.stdout)
    assert done.stdout == json.dumps(found, indent=2, sort_keys=True) + "\n"
    assert (found["images"], found["batch_size"], found["input"], found["mean"]) == (12, 5, [3, 8, 8], [1, 2, 3])
    assert found["top"] == {"1": {"right": 11, "share": 11 / 12}}  # of three classes there are no five guesses
    assert found["classes"][2] == {
        "images": 4, "label": 2, "name": "red", "right": {"1": 3}, "taken_for": {"0": 1}}
    assert cli(*arguments, cwd=folder).stdout == done.stdout


def test_a_net_that_brings_no_mean_is_noted(cli, folder):
    done = cli("test", "net.prototxt", "--weights", "weights.prototxt", "--source", "images", "--limit", 1, cwd=folder)
    assert done.returncode == 0 and done.stderr == "note: no mean is subtracted: --mean gives one\n"
    assert done.stdout == "images = 1\ntop-1 = 100.00% (1)\n"


def test_a_network_by_name_brings_size_and_mean(cli, folder, tmp_path):
    seeded = cli("convert", "attention56-cifar", "--pass", "seed-weights", "-o", tmp_path / "net", "--out-weights",
                 tmp_path / "w.caffemodel")
    assert seeded.returncode == 0, seeded.stderr
    done = cli("test", "attention56-cifar", "--weights", tmp_path / "w.caffemodel", "--source", "images",
               "--resize-short", 40, "--batch-size", 4, "--limit", 4, "--json", cwd=folder)
    found = json.loads(done.stdout)
    assert found["images"] == 4 and found["input"] == [3, 32, 32] and len(found["mean"]) == 3 and done.stderr == ""


@pytest.mark.parametrize("arguments, words", [
    ((), "Missing option '--weights'"),
    (("--weights", "nothing"), "there are no weights 'nothing'"),
    (("--weights", "net.prototxt"), "net.prototxt: holds no weights"),
    (("--weights", "weights.prototxt"), "net.prototxt: tells no images to test with\nhint: --source names"),
    (("--weights", "weights.prototxt", "--source", "images", "--top", "1,x"), "--top 1,x is no list of numbers"),
    (("--weights", "weights.prototxt", "--source", "images", "--top", "4"), "more than the net's 3 classes"),
    (("--weights", "weights.prototxt", "--source", "images", "--cpu", "--gpu", "0"), "exclude one another"),
    (("--weights", "weights.prototxt", "--source", "images", "--gpu", "0"), "built for the CPU only"),
    (("--weights", "weights.prototxt", "--source", "images", "--size", "16"), "layer 'fc'"),
])
def test_no_answer_is_exit_code_2(cli, caffe_build, folder, monkeypatch, arguments, words):
    monkeypatch.setenv("CAFFE_ROOT", str(caffe_build.root))  # there may be a build for GPUs, too
    done = cli("test", "net.prototxt", *arguments, cwd=folder)
    assert done.returncode == 2 and words in done.stderr and done.stdout == "" and "Traceback" not in done.stderr


def test_ctrl_c_ends_the_child_too(cli_path, folder):
    (folder / "long.txt").write_text("images/red/0.png 2\n" * 100_000)
    running = subprocess.Popen([cli_path, "test", "net.prototxt", "--weights", "weights.prototxt", "--source",
                                "long.txt"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def caffes():
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        return [child for child in children if b"testing_child" in Path(f"/proc/{child}/cmdline").read_bytes()]

    deadline = time.monotonic() + 60
    while not caffes() and time.monotonic() < deadline:
        time.sleep(0.05)
    (child,) = caffes()
    time.sleep(1)
    running.send_signal(signal.SIGINT)
    out, said = running.communicate(timeout=30)
    assert (running.returncode, out) == (130, "") and said.endswith("interrupted\n")
    assert not Path(f"/proc/{child}").exists()
