"""Folders of images: classes, splits, resizing, what Caffe will decode, and files that cannot be read."""

import io
import os

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prototxt_gen.core.errors import Error
from prototxt_gen.train.data import Run
from prototxt_gen.train.data_images import ImageForm
from prototxt_gen.train.data_sources import list_folder, write_listing

RAW = ImageForm(size_px=(8, 8), encoded=False)


def write_folder(folder, out, form=ImageForm(), test_share=None, run=Run()):
    return write_listing(out, list_folder(folder, test_share), form, run)


def save(path, color=(200, 100, 50), size=(40, 30), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, color).convert(mode)
    image.putpixel((0, 0), image.getpixel((1, 1)))
    image.save(path, **options)
    return path


@pytest.fixture
def flat(tmp_path):
    """Two classes without a split: ten cats and four dogs."""
    for index in range(10):
        save(tmp_path / "flat" / "cat" / f"{index}.png", color=(index, 0, 0))
    for index in range(4):
        save(tmp_path / "flat" / "dog" / f"{index}.png", color=(100 + index, 0, 0))
    return tmp_path / "flat"


@pytest.fixture
def halves(tmp_path):
    """Train and val, as ImageNet has them."""
    for half in ("train", "val"):
        for name in ("n01", "n02", "n03"):
            for index in range(2):
                save(tmp_path / "in" / half / name / f"{half}_{index}.JPEG")
    return tmp_path / "in"


def decoded(record):
    return numpy.asarray(Image.open(io.BytesIO(record.data)))


def test_classes_are_numbered_by_name_and_val_follows_train(halves, tmp_path, read_lmdb):
    written = write_folder(str(halves), tmp_path / "out", RAW)
    assert (written.train, written.test, written.classes) == (6, 6, ("n01", "n02", "n03"))
    for key, record in read_lmdb(tmp_path / "out" / "test_lmdb"):
        half, name, _ = key[9:].split("/")
        assert (half, written.classes[record.label]) == ("val", name)


def test_a_class_of_val_that_train_lacks_is_an_error(halves, tmp_path):
    save(halves / "val" / "n04" / "x.jpg")
    with pytest.raises(Error, match="class 'n04' is not among the classes of train"):
        write_folder(str(halves), tmp_path / "out")


def test_a_class_without_images_in_val_keeps_the_labels(halves, tmp_path, read_lmdb):
    for path in (halves / "val" / "n01").iterdir():
        path.unlink()
    (halves / "val" / "n01").rmdir()
    write_folder(str(halves), tmp_path / "out", RAW)
    assert {record.label for _, record in read_lmdb(tmp_path / "out" / "test_lmdb")} == {1, 2}


def test_a_split_takes_its_share_of_each_class_once(flat):
    classes, train, test, _ = list_folder(str(flat), 0.3)
    assert classes == ("cat", "dog")
    assert [sum(one.label == label for one in test) for label in (0, 1)] == [3, 1]
    assert sorted(one.name for one in train + test) == sorted(
        str(path.relative_to(flat)) for path in flat.rglob("*.png"))
    assert list_folder(str(flat), 0.3) == (classes, train, test, (str(flat),))


@pytest.mark.parametrize("share", [0, 1, -0.1, 5])
def test_a_share_that_is_none_is_refused(flat, share):
    with pytest.raises(Error, match="between 0 and 1"):
        list_folder(str(flat), share)


def test_layouts_that_cannot_be_meant(halves, flat, tmp_path):
    with pytest.raises(Error, match="nothing to split"):
        list_folder(str(halves), 0.1)
    with pytest.raises(Error, match="there is no such folder"):
        list_folder(str(tmp_path / "none"))
    with pytest.raises(Error, match="is no folder"):
        list_folder(str(flat / "cat" / sorted(os.listdir(flat / "cat"))[0]))
    with pytest.raises(Error, match="no folders of classes") as caught:
        list_folder(str(flat / "cat"))
    assert caught.value.hint == "images are wanted as CLASS/IMAGE, with a folder for each class"
    (flat / "empty").mkdir()
    with pytest.raises(Error, match="class 'empty' has no images"):
        list_folder(str(flat))
    os.rename(halves / "val", tmp_path / "val")
    with pytest.raises(Error, match="there is a folder 'train' but no folder 'val'"):
        list_folder(str(halves))


def test_hidden_files_and_other_kinds_are_passed_over(flat):
    (flat / ".cache").mkdir()
    (flat / "cat" / "._1.png").write_text("")
    (flat / "cat" / "notes.txt").write_text("")
    (flat / "cat" / ".thumbnails").mkdir()
    (flat / "cat" / ".thumbnails" / "1.png").write_text("")
    save(flat / "cat" / "more" / "10.png")
    classes, train, test, _ = list_folder(str(flat))
    assert (classes, len(train) + len(test)) == (("cat", "dog"), 15)


def test_what_is_passed_over_is_counted_in_one_note(flat, halves):
    notes = []
    list_folder(str(flat), note=notes.append)
    assert not notes
    for name in ("cat/a.gif", "cat/b.GIF", "dog/c.jfif", "dog/.hidden", "README.txt"):
        (flat / name).write_text("")
    save(flat / "stray.png")
    list_folder(str(flat), note=notes.append)
    (note,) = notes
    assert note.startswith("passed over: 3 files of other kinds (.gif 2, .jfif 1) and 1 image outside of ")
    for place in (halves, halves / "train"):
        save(place / "stray.png")
    list_folder(str(halves), note=notes.append)
    assert notes[1].startswith("passed over: 2 images outside of the folders of classes; images are .jpg .jpeg")


def test_raw_pixels_are_blue_green_red_planes(tmp_path, read_lmdb):
    for index in range(2):
        save(tmp_path / "in" / "cat" / f"{index}.png", size=(8, 8))
    written = write_folder(str(tmp_path / "in"), tmp_path / "out", RAW)
    ((_, record),) = read_lmdb(tmp_path / "out" / "train_lmdb")
    assert (record.channels, record.height, record.width, record.encoded) == (3, 8, 8, False)
    assert record.data == bytes([50] * 64 + [100] * 64 + [200] * 64)
    assert written.mean_text() == "50.0000,100.0000,200.0000"


@pytest.fixture
def one_image(tmp_path, read_lmdb):
    """Write a set of one picture, twice; return the picture's file and its Datum."""

    def write(form, suffix="jpg", **options):
        for index in range(2):
            path = save(tmp_path / "in" / "cat" / f"{index}.{suffix}", **options)
        write_folder(str(tmp_path / "in"), tmp_path / "out", form)
        ((_, record),) = read_lmdb(tmp_path / "out" / "train_lmdb")
        return path, record

    return write


def test_a_jpeg_of_the_right_size_is_stored_as_it_is(one_image):
    path, record = one_image(ImageForm(short_side_px=30), size=(40, 30), quality=40)
    assert record.encoded and record.data == path.read_bytes()
    assert (record.channels, record.height, record.width) == (3, 30, 40)


@pytest.mark.parametrize("options", [
    {"size": (80, 60)},
    {"mode": "L"},
    {"mode": "CMYK"},
    {"suffix": "png"},
    {"suffix": "png", "mode": "RGBA"},
    {"suffix": "png", "mode": "P"},
    {"suffix": "png", "mode": "1"},
    {"suffix": "bmp"},
])
def test_what_caffe_would_not_decode_to_three_channels_of_the_size_is_encoded_anew(one_image, options):
    path, record = one_image(ImageForm(short_side_px=30), **options)
    assert record.encoded and record.data != path.read_bytes()
    assert Image.open(io.BytesIO(record.data)).format == "JPEG"
    assert decoded(record).shape == (30, 40, 3)


def test_a_turned_photograph_is_stored_upright(one_image):
    exif = Image.Exif()
    exif[0x0112] = 6
    _, record = one_image(ImageForm(short_side_px=30), size=(40, 30), exif=exif)
    assert decoded(record).shape == (40, 30, 3)


def test_size_is_exact(one_image):
    _, record = one_image(ImageForm(size_px=(17, 9)))
    assert decoded(record).shape == (9, 17, 3)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 512))
def test_resizing_keeps_the_short_side_and_the_ratio(width, height, short):
    new_width, new_height = ImageForm(short_side_px=short).target(width, height)
    assert min(new_width, new_height) == short
    assert abs(max(new_width, new_height) - short * max(width, height) / min(width, height)) <= 0.5


def test_images_that_cannot_be_read_are_named_and_left_out(flat, tmp_path):
    cats = flat / "cat"
    photograph = save(cats / "cut.jpg", size=(300, 300))
    photograph.write_bytes(photograph.read_bytes()[:900])
    (cats / "empty.jpg").write_bytes(b"")
    (cats / "text.png").write_text("no picture")
    (cats / "gone.png").symlink_to(tmp_path / "nowhere")
    broken = save(cats / "broken.png", size=(200, 200))
    content = broken.read_bytes()
    broken.write_bytes(content[:60] + bytes(20) + content[80:])
    skipped = {}
    written = write_folder(str(flat), tmp_path / "out", RAW, 0.2,
                           Run(skipped=lambda path, reason: skipped.update({path.name: reason})))
    assert set(skipped) == {"cut.jpg", "empty.jpg", "text.png", "gone.png", "broken.png"}
    assert all(reason and "\n" not in reason for reason in skipped.values())
    assert written.train + written.test == 14


def test_a_folder_with_no_readable_image_is_an_error(tmp_path):
    for index in range(3):
        (tmp_path / "in" / "cat").mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / "cat" / f"{index}.jpg").write_text("no picture")
    with pytest.raises(Error, match="none of the 2 images for 'train_lmdb' could be read"):
        write_folder(str(tmp_path / "in"), tmp_path / "out")
    assert os.listdir(tmp_path) == ["in"]


def test_one_image_in_all_leaves_nothing_to_test_with(tmp_path):
    save(tmp_path / "in" / "cat" / "1.jpg")
    with pytest.raises(Error, match="no image to write into 'test_lmdb'"):
        write_folder(str(tmp_path / "in"), tmp_path / "out")


def test_progress_counts_to_the_end(flat, tmp_path):
    calls = []
    write_folder(str(flat), tmp_path / "out", RAW, 0.3, Run(progress=lambda *call: calls.append(call)))
    assert calls[0] == ("train_lmdb", 1, 10) and calls[-1] == ("test_lmdb", 4, 4)
