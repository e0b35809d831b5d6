"""Odd images, and the mean of each pixel."""

import io
import os
import subprocess

import numpy
import pytest
from PIL import Image

from image_files import RAW, picture, pixels_of
from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.train.caffe import child_environment
from prototxt_gen.train.data_images import ImageForm, Item, Place, read_items
from prototxt_gen.train.data_sources import list_files, write_listing

BlobProto = DEFAULT_DIALECT.message("BlobProto")


def outcome(tmp_path, content):
    path = tmp_path / "one"
    path.write_bytes(content)
    (found,) = read_items([Item("one", 0, Place(str(path)))], RAW).outcomes
    if found.record is None:
        return found.reason
    return pixels_of(DEFAULT_DIALECT.message("Datum").FromString(found.record))


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_brought_to_eight(tmp_path, kind):
    deep = Image.fromarray(numpy.full((4, 4), 0x1234, numpy.uint16))
    assert (outcome(tmp_path, saved(deep, kind)) == 0x12).all()


def test_values_without_a_known_range_are_refused(tmp_path):
    wide = Image.fromarray(numpy.full((4, 4), 1 << 20, numpy.int32))
    assert outcome(tmp_path, saved(wide, "TIFF")) == "holds values from 1048576 to 1048576: more than sixteen bits"
    floating = Image.fromarray(numpy.full((4, 4), 0.5, numpy.float32))
    assert outcome(tmp_path, saved(floating, "TIFF")) == "holds floating-point values, whose range is not known"


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_pictures_in_a_file_are_refused(tmp_path, kind):
    frames = [Image.new("RGB", (4, 4), (90 * index, 0, 0)) for index in range(3)]
    content = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    assert outcome(tmp_path, content) == "holds 3 pictures: which of them is meant is not known"


def test_alpha_is_dropped_and_cmyk_converted(tmp_path):
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    assert outcome(tmp_path, saved(clear, "PNG"))[:, 0, 0].tolist() == [30, 20, 10]
    print_colours = Image.new("CMYK", (4, 4), (0, 0, 0, 0))
    assert (outcome(tmp_path, saved(print_colours, "TIFF")) == 255).all()


@pytest.mark.parametrize("content", [b"", b"no picture", b"\xff\xd8\xff", b"GIF89a", b"\x89PNG\r\n\x1a\n" + bytes(50),
                                     picture()[:40], picture(kind="JPEG")[:300]])
def test_bytes_that_are_no_image_have_a_reason(tmp_path, content):
    reason = outcome(tmp_path, content)
    assert isinstance(reason, str) and reason


def test_the_pixel_mean_is_what_caffes_own_tool_writes(tmp_path, caffe_build, run_caffe_python):
    random = numpy.random.RandomState(3)
    for index in range(70):
        path = tmp_path / "in" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(random.randint(0, 256, (5, 7, 3)).astype(numpy.uint8)).save(path)
    (tmp_path / "list").write_text("".join(f"{index}.png 0\n" for index in range(70)))
    listing = list_files(str(tmp_path / "list"), None, str(tmp_path / "in"))
    write_listing(tmp_path / "out", listing, ImageForm(size_px=(7, 5), encoded=False))
    ours, theirs = tmp_path / "out" / "mean.binaryproto", tmp_path / "caffes.binaryproto"
    tool = os.path.join(os.path.dirname(caffe_build.binary), "compute_image_mean")
    subprocess.run([tool, tmp_path / "out" / "train_lmdb", theirs], check=True, capture_output=True,
                   env=child_environment(caffe_build))
    assert BlobProto.FromString(ours.read_bytes()) == BlobProto.FromString(theirs.read_bytes())
    read = run_caffe_python("""
        import sys, caffe
        blob = caffe.proto.caffe_pb2.BlobProto()
        blob.ParseFromString(open(sys.argv[1], "rb").read())
        mean = caffe.io.blobproto_to_array(blob)
        print(mean.shape, ",".join(f"{value:.4f}" for value in mean.mean((0, 2, 3), dtype=float)))
    """, ours)
    assert read.stdout.split(") ") == ["(1, 3, 5, 7", (tmp_path / "out" / "mean.txt").read_text()]


def test_images_of_several_sizes_have_no_pixel_mean(tmp_path):
    for index in range(40):
        path = tmp_path / "in" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture(size=(8, 8 + index)))
    (tmp_path / "list").write_text("".join(f"{index}.png 0\n" for index in range(40)))
    written = write_listing(tmp_path / "out", list_files(str(tmp_path / "list"), None, str(tmp_path / "in")),
                            ImageForm(short_side_px=8))
    assert not written.pixel_mean and not (tmp_path / "out" / "mean.binaryproto").exists()
