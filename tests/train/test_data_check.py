"""``check_lmdb``: LMDBs that are right, corrupt, truncated, or do not go together."""

import os
import subprocess

import lmdb
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as pillow

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error
from prototxt_gen.train import data
from prototxt_gen.train.caffe import child_environment
from prototxt_gen.train.data_check import check_lmdb, lmdbs_in, spans, spans_text
from prototxt_gen.train.data_images import ImageForm
from prototxt_gen.train.data_sources import list_folder, write_listing

Datum = DEFAULT_DIALECT.message("Datum")
PIXELS = numpy.arange(48, dtype=numpy.uint8).reshape(3, 4, 4)
RAW = data.datum(data.Image("x", 1, PIXELS))


def written(folder, values):
    data.write_lmdb(folder, [(f"image-{index}", value) for index, value in enumerate(values)])
    return str(folder)


@pytest.fixture
def encoded(tmp_path):
    """An LMDB of 200 JPEG files of two classes, in a set of images."""
    for label in range(2):
        (tmp_path / "in" / f"class{label}").mkdir(parents=True)
        for index in range(110):
            pillow.new("RGB", (12, 9), (index, 2 * index, label)).save(tmp_path / f"in/class{label}/{index}.jpg")
    write_listing(tmp_path / "out", list_folder(str(tmp_path / "in")), ImageForm(short_side_px=9))
    return tmp_path / "out"


def test_a_good_set_is_told_in_numbers(encoded):
    assert lmdbs_in(str(encoded)) == [str(encoded / "train_lmdb"), str(encoded / "test_lmdb")]
    report = check_lmdb(str(encoded / "train_lmdb"))
    assert report.problems() == []
    assert (report.records, report.encoded, report.classes) == (198, 198, 2)
    assert report.counts == {0: 99, 1: 99} and report.sizes == {(3, 9, 12): 198}


@pytest.mark.parametrize("workers", [1, 3])
def test_corrupt_images_are_named(encoded, workers):
    path = str(encoded / "train_lmdb")
    environment = lmdb.open(path)
    with environment.begin(write=True) as transaction:
        keys = [bytes(key) for key, _ in transaction.cursor()]
        for key, change in ((keys[3], lambda image: image[: len(image) // 2]), (keys[70], lambda image: b"no image"),
                            (keys[150], lambda image: b"")):
            record = Datum.FromString(transaction.get(key))
            record.data = change(record.data)
            transaction.put(key, record.SerializeToString())
    environment.close()
    report = check_lmdb(path, workers=workers)
    assert [one.key for one in report.corrupt] == [keys[index].decode() for index in (3, 70, 150)]
    assert all(one.reason for one in report.corrupt)
    assert report.problems() == ["3 of 198 records are corrupt"]


def changed(**fields):
    record = Datum.FromString(RAW)
    for name, value in fields.items():
        setattr(record, name, value)
    return record.SerializeToString()


@pytest.mark.parametrize("value, reason", [
    (changed(data=PIXELS.tobytes()[:-1]), "holds 47 values where 4x4 with 3 channels are 48"),
    (changed(height=5), "holds 48 values where 4x5 with 3 channels are 60"),
    (changed(data=b""), "holds 0 values"),
    (changed(channels=0), "tells the size 4x4 with 0 channels"),
    (changed(label=-1), "has the label -1"),
    (changed(encoded=True), "is encoded but is no image"),
    (b"\xff\xff\xff", "is no Datum"),
    (b"", "tells the size 0x0"),
])
def test_what_is_wrong_with_a_record(tmp_path, value, reason):
    report = check_lmdb(written(tmp_path / "one", [RAW, value, RAW]))
    assert [one.key for one in report.corrupt] == ["00000001_image-1"]
    assert reason in report.corrupt[0].reason
    assert report.problems() == ["1 of 3 records are corrupt"] and report.records == 3


def test_records_that_do_not_go_together(tmp_path):
    grey = changed(channels=1, data=PIXELS[0].tobytes())
    png = tmp_path / "one.png"
    pillow.new("RGB", (4, 4)).save(png)
    image = changed(encoded=True, data=png.read_bytes(), label=7)
    report = check_lmdb(written(tmp_path / "one", [RAW, RAW, grey, image]), classes=5)
    assert report.problems() == [
        "1 images have a label beyond the 5 classes: 7",
        "images have different numbers of channels: 1, 3",
        "1 images are encoded, the others are raw",
    ]
    assert report.gaps() == [(0, 0), (2, 6)]


def test_a_label_far_off_is_told_at_once(tmp_path):
    report = check_lmdb(written(tmp_path / "one", [RAW, changed(label=2**31 - 1)]), classes=3)
    assert report.gaps() == [(0, 0), (2, 2**31 - 2)]
    assert report.problems() == ["1 images have a label beyond the 3 classes: 2147483647"]


def test_a_wrong_size_beside_an_encoded_image(tmp_path):
    png = tmp_path / "one.png"
    pillow.new("RGB", (5, 4)).save(png)
    (corrupt,) = check_lmdb(written(tmp_path / "one", [changed(encoded=True, data=png.read_bytes())])).corrupt
    assert corrupt.reason == "holds an image of 5x4 with 3 channels but tells 4x4 with 3 channels"


def test_convert_imagesets_lmdb_is_good(tmp_path, caffe_build):
    """Caffe's own tool writes no size beside an encoded image."""
    for index in range(5):
        pillow.new("RGB", (6, 5), (index, 0, 0)).save(tmp_path / f"{index}.png")
    (tmp_path / "list").write_text("".join(f"{index}.png {index % 2}\n" for index in range(5)))
    tool = os.path.join(os.path.dirname(caffe_build.binary), "convert_imageset")
    for name, options in (("encoded", ["--encoded", "--encode_type=png"]), ("raw", [])):
        subprocess.run([tool, *options, f"{tmp_path}/", tmp_path / "list", tmp_path / name], check=True,
                       capture_output=True, env=child_environment(caffe_build))
        report = check_lmdb(str(tmp_path / name))
        assert (report.problems(), report.sizes, report.counts) == ([], {(3, 5, 6): 5}, {0: 3, 1: 2})


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.999])
def test_a_truncated_lmdb_is_told(encoded, share):
    path = encoded / "train_lmdb" / "data.mdb"
    os.truncate(path, int(share * os.path.getsize(path)))
    report = check_lmdb(str(encoded / "train_lmdb"), workers=2)
    assert report.records < 198
    assert report.problems()[0] == f"is damaged or truncated: {report.records} of 198 records can be reached"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_damage_ends_the_process(tmp_path_factory, draw):
    """Random bytes anywhere: a report or an Error, never a crash or another exception."""
    folder = tmp_path_factory.mktemp("lmdb") / "one"
    written(folder, [RAW, changed(data=bytes(3 * 80 * 80), height=80, width=80)] * 20)
    path = folder / "data.mdb"
    content = bytearray(path.read_bytes())
    for _ in range(draw.draw(st.integers(1, 5))):
        start = draw.draw(st.integers(0, len(content) - 1))
        piece = draw.draw(st.binary(min_size=1, max_size=16))
        content[start : start + len(piece)] = piece
    path.write_bytes(content[: draw.draw(st.integers(0, len(content)))])
    try:
        check_lmdb(str(folder), workers=1).problems()
    except Error:
        pass


def test_an_unfinished_set_is_told(encoded):
    (encoded / ".progress").mkdir()
    (encoded / ".progress" / "fingerprint").write_text("x")
    assert check_lmdb(str(encoded / "train_lmdb")).problems() == [
        "is part of an unfinished set of images: run the command that writes it once more"]


def test_an_empty_lmdb_is_wrong(tmp_path):
    assert check_lmdb(written(tmp_path / "one", [])).problems() == ["holds no records"]


@given(st.sets(st.integers(0, 60)))
def test_spans_name_each_number_once(numbers):
    found = []
    for part in filter(None, spans_text(spans(sorted(numbers))).split(", ")):
        first, _, last = part.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    assert found == sorted(numbers)
