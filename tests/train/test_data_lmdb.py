"""LMDBs of Datum records: what is written is what Caffe will read, whole or not at all."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import lmdb
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error
from prototxt_gen.train import data, data_lmdb
from prototxt_gen.train.lmdb_file import inspect_lmdb

Datum = DEFAULT_DIALECT.message("Datum")
CLASSES = ("cat", "dog")


def images(count, side=4, label=0):
    values = numpy.arange(count * 3 * side * side, dtype=numpy.uint8).reshape(count, 3, side, side)
    return [data.Image(f"image-{index}", label, pixels) for index, pixels in enumerate(values)]


def split(count):
    return data.Split(count, iter(images(count)))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=300), st.binary(max_size=6000)), min_size=1, max_size=40))
def test_records_come_back_in_the_order_written(tmp_path_factory, records):
    # Names with a zero byte are no file names, and LMDB keys end where its limit is.
    records = [(name.replace("\0", ""), value) for name, value in records]
    folder = tmp_path_factory.mktemp("lmdb") / "one"
    assert data.write_lmdb(folder, records) == len(records)
    environment = lmdb.open(str(folder), readonly=True, lock=False)
    with environment.begin() as transaction:
        found = [(bytes(key), bytes(value)) for key, value in transaction.cursor()]
    environment.close()
    keys = [f"{number:08d}_{name}".encode()[: data_lmdb.KEY_BYTES] for number, (name, _) in enumerate(records)]
    assert found == list(zip(keys, [value for _, value in records]))
    information = inspect_lmdb(str(folder))
    assert (information.entries, information.first_value) == (len(records), records[0][1])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31 - 1), st.randoms(use_true_random=False))
def test_datum_holds_the_pixels_channel_by_channel(height, width, label, random):
    pixels = numpy.array([random.randrange(256) for _ in range(3 * height * width)], dtype=numpy.uint8)
    pixels = pixels.reshape(3, height, width)
    record = Datum.FromString(data.datum(data.Image("name", label, pixels)))
    assert (record.channels, record.height, record.width, record.label) == (3, height, width, label)
    assert not record.encoded
    assert numpy.array_equal(numpy.frombuffer(record.data, dtype=numpy.uint8).reshape(3, height, width), pixels)


def test_the_map_grows_with_the_data_and_leaves_no_empty_space(tmp_path, monkeypatch):
    monkeypatch.setattr(data_lmdb, "FIRST_MAP_BYTES", 1 << 16)
    monkeypatch.setattr(data_lmdb, "BATCH_RECORDS", 10)
    value = bytes(100_000)
    assert data.write_lmdb(tmp_path / "one", [("x", value)] * 55) == 55
    assert inspect_lmdb(str(tmp_path / "one")).entries == 55
    assert os.path.getsize(tmp_path / "one" / "data.mdb") < 1.1 * 55 * len(value)


def test_a_set_has_labels_and_the_mean_of_each_channel(tmp_path, read_lmdb):
    pixels = numpy.zeros((3, 2, 2), dtype=numpy.uint8)
    pixels[:] = [[[10]], [[20]], [[31]]]
    train = data.Split(2, [data.Image("a", 0, pixels), data.Image("b", 1, pixels + 1)])
    written = data.write_image_set(tmp_path / "out", CLASSES, train, split(3))
    assert (written.train, written.test, written.mean) == (2, 3, (10.5, 20.5, 31.5))
    assert sorted(os.listdir(tmp_path)) == ["out"]
    assert sorted(os.listdir(tmp_path / "out")) == sorted(data.MEMBERS)
    assert (tmp_path / "out" / "labels.txt").read_text() == "cat\ndog\n"
    assert (tmp_path / "out" / "mean.txt").read_text() == "10.5000,20.5000,31.5000\n"
    pairs = read_lmdb(tmp_path / "out" / "train_lmdb")
    assert [(key, record.label) for key, record in pairs] == [("00000000_a", 0), ("00000001_b", 1)]


def test_an_existing_folder_is_kept_unless_forced(tmp_path):
    out = tmp_path / "out"
    data.write_image_set(out, CLASSES, split(1), split(1))
    with pytest.raises(Error, match="exists already"):
        data.write_image_set(out, CLASSES, split(2), split(2))
    assert inspect_lmdb(str(out / "train_lmdb")).entries == 1
    data.write_image_set(out, CLASSES, split(2), split(2), force=True)
    assert inspect_lmdb(str(out / "train_lmdb")).entries == 2
    assert os.listdir(tmp_path) == ["out"]


def test_force_never_takes_a_folder_with_other_files(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years")
    with pytest.raises(Error, match="'thesis.tex' in it is not part of a set"):
        data.write_image_set(tmp_path / "home", CLASSES, split(1), split(1), force=True)
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years"


@pytest.mark.parametrize("failure", [Error("the source broke"), KeyboardInterrupt(), MemoryError()])
def test_nothing_is_left_when_the_images_fail(tmp_path, failure):
    def failing():
        yield images(1)[0]
        raise failure

    with pytest.raises(type(failure)):
        data.write_image_set(tmp_path / "out", CLASSES, data.Split(2, failing()), split(1))
    assert os.listdir(tmp_path) == []


def test_a_set_without_images_is_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(Error, match="none of the 5 images for 'test_lmdb'"):
        data.write_image_set(tmp_path / "out", CLASSES, split(1), data.Split(5, iter([])))
    with pytest.raises(Error, match="no image to write into 'train_lmdb'"):
        data.write_image_set(tmp_path / "out", CLASSES, split(0), split(1))
    assert os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Error, match="cannot make the folder: Not a directory"):
        data.write_image_set(tmp_path / "file" / "out", CLASSES, split(1), split(1))
    # Writable by nobody, root included.
    with pytest.raises(Error, match="cannot make the folder"):
        data.write_image_set("/proc/out", CLASSES, split(1), split(1))


WRITE_LARGE_SET = textwrap.dedent("""
    import resource, signal, sys
    import numpy
    from prototxt_gen.core.errors import Error
    from prototxt_gen.train import data
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
    pixels = numpy.zeros((3, 100, 100), dtype=numpy.uint8)
    split = data.Split(400, (data.Image("x", 0, pixels) for _ in range(400)))
    try:
        data.write_image_set(sys.argv[1], ("x",), split, split)
    except Error as error:
        sys.exit(str(error))
""")


def write_large_set(out, file_size_limit):
    command = [sys.executable, "-c", WRITE_LARGE_SET, str(out), str(file_size_limit)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_failed_write_is_told_and_leaves_nothing(tmp_path):
    done = write_large_set(tmp_path / "out", 1 << 20)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "cannot write the LMDB" in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", tmp_path]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        done = write_large_set(tmp_path / "out", 1 << 40)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert "cannot write the LMDB: the disk is full" in done.stderr
        assert os.listdir(tmp_path) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_killed_run_leaves_nothing_under_the_name_and_the_next_one_clears_up(tmp_path):
    script = """
        import sys, time
        import numpy
        from prototxt_gen.train import data
        pixels = numpy.zeros((3, 32, 32), dtype=numpy.uint8)
        def endless():
            while True:
                yield data.Image("x", 0, pixels)
        data.write_image_set(sys.argv[1], ("x",), data.Split(1, endless()), data.Split(1, endless()))
    """
    out = tmp_path / "out"
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script), str(out)])
    written = tmp_path / "out.partial" / "train_lmdb" / "data.mdb"
    deadline = time.monotonic() + 20
    while not written.exists() or written.stat().st_size < 1 << 20:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with pytest.raises(Error, match="another run is writing this folder"):
        data.write_image_set(out, CLASSES, split(1), split(1))
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert os.listdir(tmp_path) == ["out.partial"]
    data.write_image_set(out, CLASSES, split(1), split(1))
    assert os.listdir(tmp_path) == ["out"]


@pytest.fixture
def whole(tmp_path):
    data.write_lmdb(tmp_path / "whole", [(str(index), bytes([index]) * 3000) for index in range(100)])
    return tmp_path / "whole"


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.99])
def test_a_truncated_lmdb_is_found(whole, share):
    path = whole / "data.mdb"
    os.truncate(path, int(share * os.path.getsize(path)))
    with pytest.raises(Error, match="is truncated"):
        inspect_lmdb(str(whole))


def test_what_is_no_lmdb_is_told(whole, tmp_path):
    with pytest.raises(Error, match="there is no such LMDB"):
        inspect_lmdb(str(tmp_path / "none"))
    with pytest.raises(Error, match="is a file"):
        inspect_lmdb(str(whole / "data.mdb"))
    with pytest.raises(Error, match="there is no data.mdb in it"):
        inspect_lmdb(str(tmp_path))
    content = bytearray((whole / "data.mdb").read_bytes())
    content[16] ^= 1
    (whole / "data.mdb").write_bytes(content)
    with pytest.raises(Error, match="its first bytes are not LMDB's"):
        inspect_lmdb(str(whole))


def test_an_empty_lmdb_is_told(tmp_path):
    data.write_lmdb(tmp_path / "empty", [])
    with pytest.raises(Error, match="holds no records"):
        inspect_lmdb(str(tmp_path / "empty"))


def test_a_damaged_tree_is_told(whole):
    path = whole / "data.mdb"
    content = bytearray(path.read_bytes())
    content[2 * 4096 :] = bytes(len(content) - 2 * 4096)
    path.write_bytes(content)
    with pytest.raises(Error, match="is damaged"):
        inspect_lmdb(str(whole))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.sampled_from([0, 10, 1000, 3000, 20000])), min_size=1, max_size=150))
def test_an_lmdb_with_deletions_is_no_truncated_one(tmp_path_factory, steps):
    """Pages freed in the last transaction may end the file before its last page."""
    folder = tmp_path_factory.mktemp("lmdb")
    environment = lmdb.open(str(folder), map_size=1 << 26)
    kept = {}
    for start in range(0, len(steps), 30):
        with environment.begin(write=True) as transaction:
            for number, size in steps[start : start + 30]:
                key = f"{number:08d}".encode()
                if key in kept:
                    transaction.delete(key)
                    del kept[key]
                else:
                    kept[key] = bytes([number]) * size
                    transaction.put(key, kept[key])
    environment.close()
    if kept:
        information = inspect_lmdb(str(folder))
        assert (information.entries, information.first_value) == (len(kept), kept[min(kept)])
