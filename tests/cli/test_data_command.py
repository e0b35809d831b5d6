"""``prototxt-gen data``: what the user sees, and the exit codes."""

import subprocess
import sys

import pytest

from prototxt_gen.train.lmdb_file import inspect_lmdb

# Two grey images of 2x1 pixels, in the simplest of formats.
PICTURE = b"P5 2 1 255\n\x10\x20"


@pytest.fixture
def folder(tmp_path):
    for half in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "in" / half / name).mkdir(parents=True)
            (tmp_path / "in" / half / name / "1.pgm").write_bytes(PICTURE)
    return tmp_path / "in"


def test_fashion_mnist_is_summed_up_on_stdout(cli, tmp_path):
    result = cli("data", "fashion-mnist", "sets/fashion", "--limit", 30, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[:3] == [
        "sets/fashion/train_lmdb: 30 images of 10 classes",
        "sets/fashion/test_lmdb: 30 images",
        "sets/fashion/labels.txt: 10 names",
    ]
    assert lines[3] == "sets/fashion/mean.txt: " + (tmp_path / "sets/fashion/mean.txt").read_text().strip()
    assert inspect_lmdb(str(tmp_path / "sets/fashion/train_lmdb")).entries == 30


def test_the_mean_fits_the_networks_option(cli, tmp_path):
    cli("data", "fashion-mnist", "out", "--limit", 5, cwd=tmp_path)
    mean = (tmp_path / "out" / "mean.txt").read_text().strip()
    net = cli("attention56-cifar", "--mean", mean)
    assert net.returncode == 0, net.stderr
    assert net.stdout.count("mean_value: " + mean.split(",")[0].rstrip("0")) == 6


def test_an_existing_folder_needs_force(cli, tmp_path):
    command = ("data", "fashion-mnist", tmp_path / "out", "--limit", 5)
    assert cli(*command).returncode == 0
    again = cli(*command)
    assert (again.returncode, again.stdout) == (2, "")
    assert "exists already" in again.stderr and "hint: choose another name, or replace it with --force" in again.stderr
    assert cli(*command, "--force").returncode == 0


@pytest.mark.parametrize("arguments, message", [
    (["--from", "none"], "none/train-images-idx3-ubyte.gz: there is no such file\n"),
    (["--limit", "0"], "--limit"),
])
def test_fashion_mnist_refusals(cli, tmp_path, arguments, message):
    result = cli("data", "fashion-mnist", "out", *arguments, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr and "Traceback" not in result.stderr and "apt-get" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_of_images(cli, folder, tmp_path):
    (folder / "train" / "cat" / "bad.jpg").write_text("no picture")
    result = cli("data", "folder", folder, tmp_path / "out", "--size", "4x4", "--raw")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[:2] == [
        f"{tmp_path}/out/train_lmdb: 2 images of 2 classes",
        f"{tmp_path}/out/test_lmdb: 2 images",
    ]
    assert f"skipped: {folder}/train/cat/bad.jpg: is no image\n" in result.stderr
    assert "1 images could not be read and were left out" in result.stderr
    assert (tmp_path / "out" / "labels.txt").read_text() == "cat\ndog\n"


def test_images_none_of_which_can_be_read_are_named(cli, folder, tmp_path):
    for name in ("cat", "dog"):
        (folder / "train" / name / "1.pgm").write_text("no picture")
    result = cli("data", "folder", folder, tmp_path / "out")
    assert (result.returncode, result.stdout) == (2, "")
    for name in ("cat", "dog"):
        assert f"skipped: {folder}/train/{name}/1.pgm: is no image\n" in result.stderr
    assert "none of the 2 images for 'train_lmdb' could be read" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_set_inside_the_folder_of_images_is_refused(cli, folder):
    for out in ("in/out", "in", "in/train/cat/out"):
        result = cli("data", "folder", "in", out, "--force", cwd=folder.parent)
        assert (result.returncode, result.stdout) == (2, "")
        assert f"error: {out}: lies inside the folder of images 'in'" in result.stderr


@pytest.mark.parametrize("arguments, message", [
    (["--resize", "4", "--size", "4x4"], "--resize and --size exclude one another"),
    (["--size", "4"], "--size 4 is no size"),
    (["--size", "0x4"], "--size 0x4 is no size"),
    (["--resize", "0"], "--resize"),
    (["--test-share", "0.5"], "nothing to split"),
    (["--test-share", "half"], "--test-share"),
])
def test_folder_refusals(cli, folder, tmp_path, arguments, message):
    result = cli("data", "folder", folder, tmp_path / "out", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_names_that_are_not_utf_8_are_kept(cli, folder, tmp_path):
    (folder / "train" / "cat" / "1.pgm").rename(folder / "train" / "cat" / "\udcff.pgm")
    (folder / "train" / "dog" / "\udcfe.pgm").write_bytes(b"")
    result = cli("data", "folder", folder, tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert "skipped:" in result.stderr


@pytest.mark.parametrize("package, hint", [("lmdb", "'lmdb'"), ("PIL", "'Pillow'")])
def test_a_missing_extra_is_told(folder, tmp_path, package, hint):
    code = f"import sys; sys.modules['{package}'] = None; from prototxt_gen.cli.main import run; run()"
    command = [sys.executable, "-c", code, "data", "folder", folder, tmp_path / "out"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert f"needs the Python package {hint}" in result.stderr
    assert "hint: pip install 'prototxt-gen[data]'" in result.stderr
    assert not (tmp_path / "out").exists()
