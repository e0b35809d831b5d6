"""``prototxt-gen data``: what the user sees, and the exit codes."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import tarfile

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
    assert "1 image could not be read and was left out" in result.stderr
    assert (tmp_path / "out" / "labels.txt").read_text() == "cat\ndog\n"


def test_one_class_and_files_that_are_passed_over(cli, folder, tmp_path):
    shutil.rmtree(folder / "train" / "dog")
    shutil.rmtree(folder / "val" / "dog")
    (folder / "train" / "cat" / "moving.gif").write_text("")
    result = cli("data", "folder", folder, tmp_path / "out", "--size", "4x4", "--raw")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[:3] == [
        f"{tmp_path}/out/train_lmdb: 1 image of 1 class",
        f"{tmp_path}/out/test_lmdb: 1 image",
        f"{tmp_path}/out/labels.txt: 1 name",
    ]
    assert "note: passed over: 1 file of other kinds (.gif 1); images are .jpg" in result.stderr


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


def test_the_images_of_each_class_are_shown_and_written(cli, folder, tmp_path):
    (folder / "train" / "cat" / "2.pgm").write_bytes(PICTURE)
    result = cli("data", "folder", folder, tmp_path / "out", "--size", "4x4")
    lines = result.stdout.splitlines()
    assert lines[4] == f"{tmp_path}/out/mean.binaryproto: the mean of each pixel"
    assert lines[5] == f"{tmp_path}/out/counts.txt: 1 to 2 images of a class to train with, 1 to test with"
    assert [line.split() for line in lines[6:]] == [
        ["label", "train", "test", "class"], ["0", "2", "1", "cat"], ["1", "1", "1", "dog"]]
    assert (tmp_path / "out" / "counts.txt").read_text() == "0\t2\t1\tcat\n1\t1\t1\tdog\n"


def test_images_left_out_are_named_to_a_limit_and_written_all(cli, folder, tmp_path):
    for index in range(30):
        (folder / "train" / "cat" / f"bad{index}.png").write_text("no picture")
    result = cli("data", "folder", folder, tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("skipped: ") == 20 and "30 images could not be read and were left out" in result.stderr
    left_out = (tmp_path / "out" / "skipped.txt").read_text().splitlines()
    assert sorted(left_out) == sorted(f"{folder}/train/cat/bad{index}.png\tis no image" for index in range(30))
    assert f"{tmp_path}/out/skipped.txt: 30 images left out" in result.stdout


def test_stopping_at_the_first_corrupt_image(cli, folder, tmp_path):
    (folder / "train" / "cat" / "bad.png").write_text("no picture")
    result = cli("data", "folder", folder, tmp_path / "out", "--stop-at-corrupt")
    assert (result.returncode, result.stdout) == (2, "")
    assert f"error: {folder}/train/cat/bad.png: cannot be read: is no image\nhint: repair or remove it" in result.stderr
    assert not (tmp_path / "out").exists()


def test_lists_and_tar_files(cli, folder, tmp_path):
    (tmp_path / "train.txt").write_text("train/cat/1.pgm 0\ntrain/dog/1.pgm 1\n")
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    listed = cli("data", "list", tmp_path / "train.txt", tmp_path / "one", "--test", tmp_path / "train.txt", "--root",
                 folder, "--labels", tmp_path / "names.txt", "--no-shuffle", "--raw", "--size", "2x1")
    assert listed.returncode == 0, listed.stderr
    assert (tmp_path / "one" / "labels.txt").read_text() == "cat\ndog\n"
    with tarfile.open(tmp_path / "in.tar", "w") as archive:
        archive.add(folder, "pictures")
    packed = cli("data", "tar", tmp_path / "in.tar", tmp_path / "two", "--raw", "--size", "2x1", "--seed", "5")
    assert packed.returncode == 0, packed.stderr
    assert inspect_lmdb(str(tmp_path / "two" / "test_lmdb")).entries == 2
    alone = cli("data", "tar", tmp_path / "in.tar", tmp_path / "three", "--test-list", "x")
    assert alone.returncode == 2 and "--test-list needs --test" in alone.stderr


@pytest.mark.parametrize("arguments, message", [
    (["list", "none.txt", "out"], "none.txt: cannot be read: No such file or directory"),
    (["tar", "none.tar", "out"], "none.tar: cannot be read: No such file or directory"),
    (["idx", "none", "out"], "none: cannot be read: No such file or directory"),
    (["cifar", "none", "out"], "none: cannot be read: No such file or directory"),
    (["check", "none"], "none: there is no such LMDB"),
    (["check"], "Missing argument 'LMDB...'"),
])
def test_what_is_not_there(cli, tmp_path, arguments, message):
    result = cli("data", *arguments, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr and "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.fixture
def written(cli, folder, tmp_path):
    assert cli("data", "folder", folder, tmp_path / "out").returncode == 0
    return tmp_path / "out"


def test_a_good_set_is_checked(cli, written):
    result = cli("data", "check", written)
    assert result.returncode == 0, result.stdout
    lines = result.stdout.splitlines()
    assert lines[0] == f"{written}/train_lmdb: 2 records, encoded"
    assert lines[1:3] == ["  labels: 0-1 of 2 classes, 1 images each", "  size: 512x256, 3 channels: 2 images"]
    assert lines.count("  nothing is wrong") == 2


def test_a_bad_lmdb_is_exit_code_1(cli, written):
    result = cli("data", "check", written / "train_lmdb", "--classes", "1")
    assert result.returncode == 1
    assert result.stdout.splitlines()[-1] == "  wrong: 1 images have a label beyond the 1 classes: 1"
    path = written / "train_lmdb" / "data.mdb"
    os.truncate(path, os.path.getsize(path) - 4096)
    result = cli("data", "check", written, "--json")
    document = json.loads(result.stdout)
    assert (result.returncode, document["ok"], [one["ok"] for one in document["lmdbs"]]) == (1, False, [False, True])
    assert "is damaged or truncated" in document["lmdbs"][0]["problems"][0]
    assert result.stdout == json.dumps(document, indent=2, sort_keys=True) + "\n"
    os.truncate(path, 100)
    result = cli("data", "check", written)
    assert (result.returncode, result.stdout) == (2, "")
    assert "is truncated: 100 bytes" in result.stderr


def test_progress_on_a_terminal_is_one_line_with_rate_and_time(cli_path, tmp_path):
    ours, theirs = pty.openpty()
    child = subprocess.Popen([cli_path, "data", "fashion-mnist", str(tmp_path / "out")], stdout=subprocess.DEVNULL,
                             stderr=theirs)
    os.close(theirs)
    text = b""
    try:
        while True:
            piece = os.read(ours, 65536)
            text += piece
    except OSError:  # the end of a terminal
        os.close(ours)
    assert child.wait() == 0
    shown = text.decode().split("\r")
    assert re.search(r"train_lmdb: \d+ of 60000 images, \d+ a second, \d+ s left", text.decode())
    assert "train_lmdb: 60000 of 60000 images" in text.decode() and len(shown) > 5
    assert text.count(b"\n") == 2
