"""Where images come from besides folders: lists and tar files."""

import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_files import RAW, picture, pixels_of, tar_of
from prototxt_gen.core.errors import Error
from prototxt_gen.train.data import Run
from prototxt_gen.train.data_sources import list_files, list_tar, read_list, read_names, write_listing

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


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa.png 0\r\nb.png 1\r\n")
    assert read_list(str(tmp_path / "list.txt")) == [("a.png", 0), ("b.png", 1)]
    (tmp_path / "names.txt").write_bytes(b"\xef\xbb\xbfcat\ndog\n")
    assert read_names(str(tmp_path / "names.txt")) == ["cat", "dog"]


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


def test_class_names_and_lists_are_no_binaries(listed):
    picture = str(listed / "pictures" / "a 0.png")
    for read in (read_names, read_list):
        with pytest.raises(Error, match="is binary, and a text is wanted"):
            read(picture)


def test_an_id_in_place_of_a_label_is_refused(listed):
    (listed / "list.txt").write_text("a 0.png 2000000000\n")
    with pytest.raises(Error, match="holds the label 2000000000"):
        list_files(str(listed / "list.txt"), None, str(listed / "pictures"))


def test_a_wrong_root_is_told(listed):
    with pytest.raises(Error, match="there is no file '/nowhere/a 0.png'") as caught:
        list_files(str(listed / "list.txt"), None, "/nowhere")
    assert "--root" in caught.value.hint


# ---- Tar files

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
