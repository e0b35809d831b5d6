"""Writing a set of images that is cut short: by kill -9, a full disk, a bad image; and going on with it."""

import os
import signal
import subprocess
from pathlib import Path

import numpy
import pytest

from processes import wait_for
from PIL import Image

from prototxt_gen.core.errors import Error
from prototxt_gen.train.data import Run, write_lmdb
from prototxt_gen.train.data_images import ImageForm
from prototxt_gen.train.data_sources import list_folder, read_list, write_listing
from prototxt_gen.train.data_workers import in_order
from prototxt_gen.train.lmdb_file import count_entries

CLASSES, EACH = 4, 300
FILES = ("labels.txt", "counts.txt", "mean.txt", "mean.binaryproto")
FORM = ImageForm(size_px=(64, 48), encoded=False)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder of 1200 JPEG files, one of them cut short, in four classes."""
    folder = tmp_path_factory.mktemp("photographs") / "in"
    noise = numpy.random.RandomState(0).randint(0, 256, (30, 40, 3)).astype(numpy.uint8)
    for label in range(CLASSES):
        (folder / f"class{label}").mkdir(parents=True)
        for index in range(EACH):
            picture = Image.fromarray(numpy.roll(noise, (label, index), (0, 1)))
            picture.save(folder / f"class{label}" / f"{index:03d}.jpg")
    cut = folder / "class1" / "100.jpg"
    cut.write_bytes(cut.read_bytes()[:500])
    return folder


def write(folder, out, form=FORM, **how):
    return write_listing(out, list_folder(str(folder)), form, Run(**how))


@pytest.fixture(scope="module")
def uninterrupted(photographs, tmp_path_factory):
    """The set of these photographs, written in one go by one process."""
    out = tmp_path_factory.mktemp("uninterrupted") / "out"
    write(photographs, out, workers=1)
    return out


@pytest.fixture
def same_as_uninterrupted(uninterrupted, read_lmdb):
    def check(out):
        assert sorted(os.listdir(out)) == sorted(os.listdir(uninterrupted))
        for name in (*FILES, "skipped.txt"):
            assert (out / name).read_bytes() == (uninterrupted / name).read_bytes()
        for lmdb in ("train_lmdb", "test_lmdb"):
            assert read_lmdb(out / lmdb) == read_lmdb(uninterrupted / lmdb)

    return check


@pytest.mark.parametrize("workers", [2, 5])
def test_any_number_of_workers_writes_the_same_bytes(photographs, uninterrupted, tmp_path, workers):
    written = write(photographs, tmp_path / "out", workers=workers)
    assert (written.train + written.test, written.skipped) == (CLASSES * EACH - 1, 1)
    for name in (*FILES, "skipped.txt", "train_lmdb/data.mdb", "test_lmdb/data.mdb"):
        assert (tmp_path / "out" / name).read_bytes() == (uninterrupted / name).read_bytes()


def entries(lmdb):
    try:
        return count_entries(str(lmdb))
    except Error:
        return 0


def children(pid):
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_kill_9_twice_and_going_on(cli, cli_path, photographs, tmp_path, same_as_uninterrupted):
    command = ["data", "folder", str(photographs), str(tmp_path / "out"), "--size", "64x48", "--raw"]
    partial = tmp_path / "out.partial"
    for enough in (256, 512):
        child = subprocess.Popen([cli_path, *command, "--workers", "2"], stderr=subprocess.DEVNULL)
        wait_for(lambda: entries(partial / "train_lmdb") >= enough)
        workers = children(child.pid)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert len(workers) == 2
        wait_for(lambda: not any(map(alive, workers)))
        assert not (tmp_path / "out").exists()
    done = cli(*command)
    assert done.returncode == 0, done.stderr
    assert "note: train_lmdb: " in done.stderr and "of 1080 images are done already, by an earlier run" in done.stderr
    assert f"skipped: {photographs}/class1/100.jpg: " in done.stderr
    assert os.listdir(tmp_path) == ["out"]
    same_as_uninterrupted(tmp_path / "out")


def stopped_after(photographs, out, images):
    """Let a run end by Ctrl-C after so many images of train_lmdb."""

    def progress(what, done, total):
        if done == images:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(photographs, out, workers=1, progress=progress)


@pytest.mark.parametrize("images", [1, 256, 257, 300, 1079, 1080])
def test_ctrl_c_keeps_whole_batches(photographs, tmp_path, same_as_uninterrupted, images):
    stopped_after(photographs, tmp_path / "out", images)
    assert not (tmp_path / "out").exists()
    notes, first = [], []
    write(photographs, tmp_path / "out", note=notes.append, workers=1, progress=lambda *one: first.append(one))
    # A batch is done when the first image after it has come.
    assert len(notes) == (images > 256) and first[0][1] > images - 256 - 32
    same_as_uninterrupted(tmp_path / "out")


def test_other_options_begin_anew(photographs, tmp_path):
    stopped_after(photographs, tmp_path / "out", 700)
    notes = []
    write(photographs, tmp_path / "out", ImageForm(size_px=(8, 8)), note=notes.append, workers=1)
    assert notes == [f"'{tmp_path}/out.partial', an unfinished set of other images or options, is cleared"]


@pytest.mark.parametrize("damage", [
    lambda data: data[: len(data) // 2],
    lambda data: data[:20000] + bytes([data[20000] ^ 1]) + data[20001:],
    lambda data: b"",
])
def test_what_a_power_cut_has_damaged_is_written_anew(photographs, tmp_path, same_as_uninterrupted, damage):
    stopped_after(photographs, tmp_path / "out", 700)
    path = tmp_path / "out.partial" / "train_lmdb" / "data.mdb"
    path.write_bytes(damage(path.read_bytes()))
    notes = []
    write(photographs, tmp_path / "out", note=notes.append, workers=1)
    assert notes == ["train_lmdb: what an earlier run has written is damaged; begun anew"]
    same_as_uninterrupted(tmp_path / "out")


def test_a_kill_between_tally_and_commit_is_no_loss(photographs, tmp_path, same_as_uninterrupted):
    """The newer of the two tallies is gone or ahead of the LMDB: the older one holds."""
    stopped_after(photographs, tmp_path / "out", 1000)
    progress = tmp_path / "out.partial" / ".progress"
    slots = sorted(progress.glob("train_lmdb.?"), key=lambda path: path.stat().st_mtime_ns)
    assert len(slots) == 2
    slots[0].write_bytes(b"cut")
    notes = []
    write(photographs, tmp_path / "out", note=notes.append, workers=1)
    assert "images are done already" in notes[0]
    same_as_uninterrupted(tmp_path / "out")


def test_a_kill_before_the_first_commit_is_no_damage(photographs, tmp_path, same_as_uninterrupted):
    stopped_after(photographs, tmp_path / "out", 300)
    (tmp_path / "out.partial" / "train_lmdb" / "data.mdb").unlink()
    write_lmdb(tmp_path / "empty", [])
    (tmp_path / "empty" / "data.mdb").rename(tmp_path / "out.partial" / "train_lmdb" / "data.mdb")
    notes = []
    write(photographs, tmp_path / "out", note=notes.append, workers=1)
    assert notes == []
    same_as_uninterrupted(tmp_path / "out")


def test_files_of_somebody_else_are_not_cleared(photographs, tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.tex").write_text("years")
    with pytest.raises(Error, match="'thesis.tex' in it is not part of an unfinished set"):
        write(photographs, tmp_path / "out")
    assert (tmp_path / "out.partial" / "thesis.tex").read_text() == "years"


def test_stopping_at_a_corrupt_image_keeps_what_was_done(photographs, tmp_path, same_as_uninterrupted):
    for _ in range(2):
        with pytest.raises(Error, match="cannot be read") as caught:
            write(photographs, tmp_path / "out", skip_corrupt=False, workers=1)
        assert caught.value.where == f"{photographs}/class1/100.jpg"
        assert f"what is finished is kept in '{tmp_path}/out.partial'" in caught.value.hint
    notes = []
    write(photographs, tmp_path / "out", note=notes.append, workers=1)
    assert "images are done already" in notes[0]
    same_as_uninterrupted(tmp_path / "out")


def test_a_full_disk_then_more_room(cli, photographs, tmp_path, same_as_uninterrupted):
    if os.geteuid():
        pytest.skip("mounting a small disk needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", disk], check=True)
    try:
        command = ("data", "folder", photographs, disk / "out", "--size", "64x48", "--raw")
        full = cli(*command)
        assert (full.returncode, full.stdout) == (2, "")
        assert f"error: {disk}/out.partial/train_lmdb: cannot write the LMDB: the disk is full: " in full.stderr
        assert f"what is finished is kept in '{disk}/out.partial', and the same command goes on" in full.stderr
        assert os.listdir(disk) == ["out.partial"]
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        more = cli(*command)
        assert more.returncode == 0, more.stderr
        assert "images are done already" in more.stderr
        same_as_uninterrupted(disk / "out")
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_read_only_place(cli, photographs, tmp_path):
    if os.geteuid():
        pytest.skip("mounting a disk read-only needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", tmp_path], check=True)
    try:
        refused = cli("data", "folder", photographs, tmp_path / "out")
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"error: {tmp_path}/out: cannot make the folder: Read-only file system" in refused.stderr
    assert f"until it is finished, the set is written into '{tmp_path}/out.partial'" in refused.stderr


def test_a_killed_worker_is_told():
    with pytest.raises(Error, match="a process that decodes images ended with SIGKILL") as caught:
        list(in_order(signal.raise_signal, [signal.SIGKILL] * 10, 2))
    assert "memory ran out" in caught.value.hint


def test_results_come_in_the_order_of_tasks():
    assert list(in_order(str, range(300), 3)) == [str(number) for number in range(300)]
    assert list(in_order(str, [], 2)) == []


def test_an_error_in_a_worker_arrives_whole():
    with pytest.raises(Error, match="cannot be read: No such file") as caught:
        list(in_order(read_list, ["/nowhere"] * 10, 2))
    assert caught.value.where == "/nowhere"
