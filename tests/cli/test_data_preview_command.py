"""``prototxt-gen data preview``: a PNG of what a net or a solver's net sees, and its refusals."""

import subprocess
import sys

import numpy
import pytest
from PIL import Image as Picture

from prototxt_gen.train.data import Image, Split, write_image_set

NET = """name: "n"
layer { name: "data" type: "AugmentedData" top: "data" top: "label" include { phase: TRAIN }
        augmented_data_param { source: "set/train_lmdb" batch_size: 4 crop_size: 16 mirror: true mean_value: 100 } }
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
        data_param { source: "set/test_lmdb" batch_size: 4 backend: LMDB } transform_param { mean_value: 100 } }
"""
SOLVER = 'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 1 random_seed: 3 test_iter: 1 test_interval: 9\n'


@pytest.fixture
def job(tmp_path, caffe_build):
    def split(count):
        values = numpy.random.RandomState(count).randint(0, 256, (count, 3, 24, 24)).astype("uint8")
        return Split(count, (Image(str(i), i % 2, one) for i, one in enumerate(values)))

    write_image_set(tmp_path / "set", ("cat", "dog"), split(10), split(6))
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    return tmp_path


@pytest.mark.parametrize("arguments, told", [
    (["net.prototxt"], "sheet.png: 48 images of 16x16, 2 classes\n"),
    (["net.prototxt", "--phase", "test", "--count", 3], "sheet.png: 3 images of 24x24, 2 classes\n"),
    (["solver.prototxt", "--count", 1], "sheet.png: 1 image of 16x16, 1 class\n"),
    (["solver.prototxt", "--phase", "test"], "sheet.png: 48 images of 24x24, 2 classes\n"),
])
def test_nets_and_solvers(cli, job, arguments, told):
    done = cli("data", "preview", *arguments, "-o", "sheet.png", cwd=job)
    assert (done.returncode, done.stdout, done.stderr) == (0, told, "")
    with Picture.open(job / "sheet.png") as sheet:
        assert sheet.format == "PNG" and sheet.mode == "RGB"


def test_the_picture_is_the_same_each_time(cli, job):
    for name in ("a.png", "b.png"):
        assert cli("data", "preview", "solver.prototxt", "-o", name, cwd=job).returncode == 0
    assert (job / "a.png").read_bytes() == (job / "b.png").read_bytes()


@pytest.mark.parametrize("arguments, message", [
    (["nothing"], "there is no network and no file 'nothing'"),
    (["set/labels.txt"], "set/labels.txt:1"),
    (["net.prototxt", "--labels", "none.txt"], "none.txt: cannot be read"),
    (["net.prototxt", "--labels", "set/train_lmdb/data.mdb"], "data.mdb: is binary, and class names are wanted"),
    (["net.prototxt", "--count", "0"], "--count"),
    (["attention56"], "cannot read 'train_lmdb': there is no such LMDB"),
    (["deploy.prototxt"], "no layer reads images in phase TRAIN"),
    (["headless.prototxt"], "names no net for this phase"),
    (["lost.prototxt"], "error: lost.prototxt: there is no net 'none.prototxt'"),
    (["lost/solver.prototxt"], "hint: Caffe takes paths from the current directory: run it in 'lost'"),
])
def test_refusals(cli, job, arguments, message):
    (job / "deploy.prototxt").write_text('layer { name: "in" type: "Input" top: "x" }')
    (job / "headless.prototxt").write_text("base_lr: 0.1 max_iter: 5")
    (job / "lost.prototxt").write_text(SOLVER.replace("net.prototxt", "none.prototxt"))
    (job / "lost").mkdir()
    (job / "lost" / "solver.prototxt").write_text(SOLVER.replace("net.prototxt", "inner.prototxt"))
    (job / "lost" / "inner.prototxt").write_text(NET)
    done = cli("data", "preview", *arguments, "-o", "sheet.png", cwd=job)
    assert (done.returncode, done.stdout) == (2, "") and message in done.stderr
    assert "Traceback" not in done.stderr and not (job / "sheet.png").exists()


def test_only_a_png_is_written(cli, job):
    done = cli("data", "preview", "net.prototxt", "-o", "sheet.jpg", cwd=job)
    assert done.returncode == 2 and "-o sheet.jpg names no PNG" in done.stderr
    assert cli("data", "preview", "net.prototxt", "-o", "SHEET.PNG", cwd=job).returncode == 0


def test_what_caffe_says_is_told_with_its_own_exit_code(cli, job):
    (job / "net.prototxt").write_text(NET.replace("crop_size: 16", "crop_size: 16 max_area: 4"))
    done = cli("data", "preview", "net.prototxt", "-o", "sheet.png", cwd=job)
    assert done.returncode == 3 and "max_area <= 1 must hold" in done.stderr


def test_a_missing_pillow_is_told(job):
    code = "import sys; sys.modules['PIL'] = None; from prototxt_gen.cli.main import run; run()"
    command = [sys.executable, "-c", code, "data", "preview", "net.prototxt", "-o", "sheet.png"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=job)
    assert done.returncode == 2 and "a preview needs the Python package 'Pillow'" in done.stderr
