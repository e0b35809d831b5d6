"""Where images come from besides folders: lists, tar files, IDX and CIFAR files; and odd images."""

import gzip
import io
import os
import struct
import subprocess
import tarfile

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error
from prototxt_gen.train.caffe import child_environment
from prototxt_gen.train.data import Run
from prototxt_gen.train.data_arrays import write_cifar, write_idx
from prototxt_gen.train.data_images import ImageForm, Item, Place, read_items
from prototxt_gen.train.data_sources import list_files, list_tar, read_list, write_listing

BlobProto = DEFAULT_DIALECT.message("BlobProto")
RAW = ImageForm(size_px=(4, 4), encoded=False)


def picture(shade=7, kind="PNG", mode="RGB", size=(4, 4)):
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade, shade, shade)).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def pixels_of(record):
    return numpy.frombuffer(record.data, numpy.uint8).reshape(record.channels, record.height, record.width)


# ---- Lists


@pytest.fixture
def listed(tmp_path):
    for index in range(6):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        (tmp_path / "pictures" / f"a {index}.png").write_bytes(picture(index))
    (tmp_path / "list.txt").write_text("".join(f"a {index}.png {index % 3}\n" for index in range(6)) + "\n")
    return tmp_path


def test_a_list_is_written_with_its_labels(listed, read_lmdb):
    both = str(listed / "list.txt")
    listing = list_files(both, both, str(listed / "pictures"))
    written = write_listing(listed / "out", listing, RAW, Run(shuffle=False))
    assert (written.classes, written.train_counts) == (("0", "1", "2"), (2, 2, 2))
    pairs = read_lmdb(listed / "out" / "train_lmdb")
    assert [(key, record.label) for key, record in pairs] == [
        (f"{index:08d}_a {index}.png", index % 3) for index in range(6)]
    assert [pixels_of(record).max() for _, record in pairs] == list(range(6))


def test_a_list_is_split_by_label_and_seed(listed):
    listing = list_files(str(listed / "list.txt"), None, str(listed / "pictures"), ["x", "y", "z"], 0.5)
    assert sorted(item.label for item in listing.test) == [0, 1, 2] == sorted(item.label for item in listing.train)
    tests = {tuple(item.name for item in list_files(str(listed / "list.txt"), None, str(listed / "pictures"),
                                                    None, 0.5, seed).test) for seed in range(20)}
    assert len(tests) > 1


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(st.characters(blacklist_characters="\r\n\t\0", blacklist_categories=["Z", "Cs"]),
                                  min_size=1), st.integers(0, 2**31 - 1)), min_size=1))
def test_lists_come_back(tmp_path_factory, pairs):
    path = tmp_path_factory.mktemp("list") / "list.txt"
    pairs = [(name, label) for name, label in pairs if name.strip()] or [("x", 0)]
    path.write_text("".join(f"{name.strip()} {label}\n" for name, label in pairs), encoding="utf-8")
    assert read_list(str(path)) == [(name.strip(), label) for name, label in pairs]


@pytest.mark.parametrize("text, message", [
    ("a.png 0\na.png\n", "list.txt:2: 'a.png' is no file with a label"),
    ("a.png -1\n", "list.txt:1: 'a.png -1' is no file with a label"),
    ("a.png 1.5\n", "list.txt:1: 'a.png 1.5' is no file"),
    ("a.png 4294967296\n", "list.txt:1"),
    ("a.png 3\n", "list.txt:1: the label 3 is not among the 2 classes"),
    ("\n\n", "list.txt: names no images"),
])
def test_lines_that_are_wrong_are_named(tmp_path, text, message):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(Error) as caught:
        list_files(str(tmp_path / "list.txt"), None, "", ["x", "y"])
    assert message in str(caught.value)


def test_an_id_in_place_of_a_label_is_refused(listed):
    (listed / "list.txt").write_text("a 0.png 2000000000\n")
    with pytest.raises(Error, match="holds the label 2000000000"):
        list_files(str(listed / "list.txt"), None, str(listed / "pictures"))


def test_a_wrong_root_is_told(listed):
    with pytest.raises(Error, match="there is no file '/nowhere/a 0.png'") as caught:
        list_files(str(listed / "list.txt"), None, "/nowhere")
    assert "--root" in caught.value.hint


# ---- Tar files


def tar_of(files, path=None, compress=""):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compress}") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    if path is not None:
        path.write_bytes(buffer.getvalue())
    return buffer.getvalue()


CLASS_FILES = {f"{name}/{index}.png": picture(10 * label + index)
               for label, name in enumerate(("cat", "dog")) for index in range(4)}


@pytest.mark.parametrize("change", [
    lambda name: name,
    lambda name: "./" + name,
    lambda name: "animals/photos/" + name,
])
def test_a_tar_file_of_classes(tmp_path, read_lmdb, change):
    files = {change(name): content for name, content in CLASS_FILES.items()}
    tar_of({**files, change("cat/notes.txt"): b"x", change("cat/._1.png"): b"x"}, tmp_path / "in.tar")
    listing = list_tar(str(tmp_path / "in.tar"), test_share=0.25)
    assert (listing.classes, len(listing.train), len(listing.test)) == (("cat", "dog"), 6, 2)
    write_listing(tmp_path / "out", listing, RAW)
    for lmdb in ("train_lmdb", "test_lmdb"):
        for key, record in read_lmdb(tmp_path / "out" / lmdb):
            index = int(key[-len("0.png")])
            assert pixels_of(record).max() == 10 * record.label + index


@pytest.mark.parametrize("stray", ["animals/cover.png", "cover.png"])
def test_an_image_beside_the_folders_of_classes_makes_no_class_of_the_folder_above(tmp_path, stray):
    files = {f"animals/{name}": content for name, content in CLASS_FILES.items()}
    tar_of({**files, stray: picture()}, tmp_path / "in.tar")
    listing = list_tar(str(tmp_path / "in.tar"))
    assert listing.classes == ("cat", "dog") and len(listing.train) + len(listing.test) == 8


def test_a_tar_file_with_train_and_val(tmp_path):
    tar_of({f"set/{half}/{name}": content for half in ("train", "val") for name, content in CLASS_FILES.items()},
           tmp_path / "in.tar")
    listing = list_tar(str(tmp_path / "in.tar"))
    assert (len(listing.train), len(listing.test), listing.classes) == (8, 8, ("cat", "dog"))


def test_imagenets_tar_of_tars(tmp_path, read_lmdb):
    inner = {f"n0{label}.tar": tar_of({f"n0{label}_{index}.JPEG": picture(10 * label + index, "JPEG")
                                       for index in range(3)}) for label in range(2)}
    tar_of(inner, tmp_path / "train.tar")
    tar_of({f"val_{index}.JPEG": picture(100 + index, "JPEG") for index in range(4)}, tmp_path / "val.tar")
    (tmp_path / "val.txt").write_text("".join(f"val_{index}.JPEG {index % 2}\n" for index in range(4)))
    listing = list_tar(str(tmp_path / "train.tar"), str(tmp_path / "val.tar"), str(tmp_path / "val.txt"))
    assert listing.classes == ("n00", "n01")
    written = write_listing(tmp_path / "out", listing, RAW, Run(shuffle=False))
    assert (written.train_counts, written.test_counts) == ((3, 3), (2, 2))
    train = read_lmdb(tmp_path / "out" / "train_lmdb")
    assert [key for key, _ in train][0] == "00000000_n00/n00_0.JPEG"
    assert [(record.label, pixels_of(record).max()) for _, record in train] == [
        (label, 10 * label + index) for label in range(2) for index in range(3)]
    test = read_lmdb(tmp_path / "out" / "test_lmdb")
    assert [(record.label, pixels_of(record).max()) for _, record in test] == [
        (index % 2, 100 + index) for index in range(4)]


def test_tar_files_that_are_none(tmp_path):
    path = tmp_path / "in.tar"
    whole = tar_of(CLASS_FILES)
    for content, message in (
        (b"no tar file" * 100, "is no tar file"),
        (b"", "is no tar file"),
        (gzip.compress(whole), "is a compressed tar file"),
        (whole[:700], "damaged|truncated"),
        (whole[:1024], "its end is missing after 1024 bytes"),
        (whole[:1500], "its end is missing after 1024 bytes"),
        (whole[:1100] + b"x" + whole[1101:], "its end is missing after 1024 bytes"),
        (tar_of({"n01.tar": tar_of(CLASS_FILES)[:1500]}), "its end is missing after 1024 bytes"),
        (tar_of({"cat/a.txt": b"x"}), "holds no images"),
        (tar_of({"a.png": picture()}), "there are no folders of classes"),
    ):
        path.write_bytes(content)
        with pytest.raises(Error, match=message) as caught:
            list_tar(str(path))
        assert caught.value.where == str(path)


# ---- IDX and CIFAR


def idx(values):
    return struct.pack(f">I{values.ndim}I", 0x0800 | values.ndim, *values.shape) + values.tobytes()


@pytest.fixture
def mnist(tmp_path):
    folder = tmp_path / "mnist"
    folder.mkdir()
    for half, count in (("train", 20), ("t10k", 10)):
        images = numpy.arange(count, dtype=numpy.uint8).repeat(9).reshape(count, 3, 3)
        (folder / f"{half}-images-idx3-ubyte").write_bytes(idx(images))
        labels = idx((numpy.arange(count) % 5).astype(numpy.uint8))
        (folder / f"{half}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return folder


def test_idx_files_gzipped_or_not(mnist, tmp_path, read_lmdb):
    written = write_idx(tmp_path / "out", str(mnist), pad_px=1, run=Run(shuffle=False))
    assert (written.train, written.test, written.classes) == (20, 10, ("0", "1", "2", "3", "4"))
    for index, (_, record) in enumerate(read_lmdb(tmp_path / "out" / "train_lmdb")):
        planes = pixels_of(record)
        assert planes.shape == (3, 5, 5) and record.label == index % 5
        assert (planes[:, 1:4, 1:4] == index).all() and planes.sum() == 27 * index


def test_idx_files_that_do_not_fit(mnist, tmp_path):
    with pytest.raises(Error, match="there is no 'kmnist-train-images") as caught:
        write_idx(tmp_path / "out", str(mnist), "kmnist-")
    assert caught.value.hint == "--prefix is one of '', the default"
    for path in list(mnist.iterdir()):
        path.rename(mnist / f"emnist-{path.name}")
    with pytest.raises(Error, match="there is no 'train-images") as caught:
        write_idx(tmp_path / "out", str(mnist))
    assert caught.value.hint == "--prefix is one of emnist-"
    assert write_idx(tmp_path / "out", str(mnist), "emnist-").train == 20
    with pytest.raises(Error, match="the label 4 where there are 3 classes"):
        write_idx(tmp_path / "three", str(mnist), "emnist-", classes=["a", "b", "c"])
    (mnist / "emnist-t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(Error, match="there are no labels 'emnist-t10k-labels-idx1-ubyte'"):
        write_idx(tmp_path / "labels", str(mnist), "emnist-")


def cifar_record(labels, number):
    planes = numpy.stack([numpy.full((32, 32), value, numpy.uint8) for value in (number, number + 1, number + 2)])
    return bytes(labels) + planes.tobytes()


CIFAR10 = {
    **{f"data_batch_{batch}.bin": b"".join(cifar_record([i], 10 * batch + i) for i in range(10))
       for batch in range(1, 6)},
    "test_batch.bin": b"".join(cifar_record([i], i) for i in range(10)),
    "batches.meta.txt": "".join(f"class{i}\n" for i in range(10)).encode() + b"\n",
}
CIFAR100 = {
    "train.bin": b"".join(cifar_record([i % 20, i % 100], i) for i in range(200)),
    "test.bin": b"".join(cifar_record([i % 20, i % 100], i) for i in range(100)),
    "coarse_label_names.txt": "".join(f"coarse{i}\n" for i in range(20)).encode(),
    "fine_label_names.txt": "".join(f"fine{i}\n" for i in range(100)).encode(),
}


def test_cifar_10_from_its_tar_file(tmp_path, read_lmdb):
    tar_of({f"cifar-10-batches-bin/{name}": content for name, content in CIFAR10.items()},
           tmp_path / "cifar.tar.gz", "gz")
    written = write_cifar(tmp_path / "out", str(tmp_path / "cifar.tar.gz"), run=Run(shuffle=False))
    assert (written.train, written.test, written.classes[9]) == (50, 10, "class9")
    for index, (_, record) in enumerate(read_lmdb(tmp_path / "out" / "train_lmdb")):
        number = 10 * (index // 10 + 1) + index % 10
        assert record.label == index % 10
        # Red comes first in the file, blue in Caffe.
        assert [set(plane.ravel()) for plane in pixels_of(record)] == [{number + 2}, {number + 1}, {number}]


def test_cifar_100_from_its_folder(tmp_path, read_lmdb):
    for name, content in CIFAR100.items():
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(content)
    fine = write_cifar(tmp_path / "fine", str(tmp_path / "in"))
    coarse = write_cifar(tmp_path / "coarse", str(tmp_path / "in"), coarse=True)
    assert (len(fine.classes), fine.train_counts) == (100, (2,) * 100)
    assert (len(coarse.classes), coarse.train_counts) == (20, (10,) * 20)


@pytest.mark.parametrize("name, content, message", [
    ("data_batch_3.bin", CIFAR10["data_batch_3.bin"][:-1], "'data_batch_3.bin' holds 30729 bytes"),
    ("data_batch_3.bin", b"", "'data_batch_3.bin' holds 0 bytes"),
    ("data_batch_3.bin", None, "there is no 'data_batch_3.bin' in it"),
    ("test_batch.bin", None, "is no CIFAR set"),
    ("test_batch.bin", cifar_record([10], 0), "holds the label 10"),
    ("batches.meta.txt", b"one\n", "'batches.meta.txt' holds 1 names, not 10"),
])
def test_wrong_cifar_files_are_named(tmp_path, name, content, message):
    files = {**CIFAR10, name: content}
    tar_of({one: data for one, data in files.items() if data is not None}, tmp_path / "cifar.tar")
    with pytest.raises(Error, match=message):
        write_cifar(tmp_path / "out", str(tmp_path / "cifar.tar"))
    with pytest.raises(Error, match="has no coarse labels|is no CIFAR set"):
        write_cifar(tmp_path / "out", str(tmp_path / "cifar.tar"), coarse=True)
    assert os.listdir(tmp_path) == ["cifar.tar"]


def test_a_cut_tar_file_of_cifar_is_told(tmp_path):
    (tmp_path / "cifar.tar.gz").write_bytes(tar_of(CIFAR10, compress="gz")[:300])
    with pytest.raises(Error, match="cannot be read"):
        write_cifar(tmp_path / "out", str(tmp_path / "cifar.tar.gz"))


# ---- Odd images


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


# ---- The mean of each pixel


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
