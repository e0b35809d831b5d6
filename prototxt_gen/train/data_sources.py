"""Where image files come from: folders, lists, tar files."""

from __future__ import annotations

import functools
import hashlib
import os
from collections import Counter
from pathlib import Path
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from prototxt_gen.core.errors import Error
from prototxt_gen.spec.shapes import plural
from prototxt_gen.train.data import (
    CHUNK_ITEMS, SEED, TEST_LMDB, TRAIN_LMDB, ImageSet, Part, Run, shuffled, write_parts,
)
from prototxt_gen.train.data_images import IMAGE_SUFFIXES, ImageForm, Item, Place, grouped, import_pillow, read_items
from prototxt_gen.train.data_tally import Chunk
from prototxt_gen.train.data_tar import Member, members
from prototxt_gen.train.data_workers import all_cores, in_order

TEST_SHARE = 0.1
# A larger label without a name is a mistake, such as an id in place of a label.
MOST_UNNAMED = 1_000_000
SUFFIXES_SHOWN = 5
HALVES = ("train", "val")
# Fewer chunks than this are done before a worker has started.
CHUNKS_PER_WORKER = 4

ByClass = Dict[str, List[Item]]


class Listing(NamedTuple):
    """Class names in the order of their labels, the image files to train and to test with, and where they lie."""

    classes: Tuple[str, ...]
    train: List[Item]
    test: List[Item]
    sources: Tuple[str, ...]


def write_listing(out: Path, listing: Listing, form: ImageForm = ImageForm(), run: Run = Run()) -> ImageSet:
    """Write image files as a set of images.

    An image that cannot be decoded is told to ``run.skipped`` and left out, or is an error, as ``run.skip_corrupt``
    says. Raises Error when there are no images or no readable ones.
    """
    import_pillow()
    sources = [os.path.realpath(source) for source in listing.sources]
    hasher = hashlib.sha256(repr((form, listing.classes, sources)).encode("utf-8", "surrogateescape"))
    parts = []
    for name, items in ((TRAIN_LMDB, listing.train), (TEST_LMDB, listing.test)):
        ordered = run.ordered(items)
        hasher.update(f"{name} {len(ordered)}\n".encode())
        for item in ordered:
            text = f"{item.name}\0{item.label} {item.place.offset} {item.place.length}\n"
            hasher.update(text.encode("utf-8", "surrogateescape"))
        parts.append(Part(name, len(ordered), functools.partial(_chunks, ordered, form, run.workers)))
    return write_parts(out, listing.classes, *parts, hasher.hexdigest(), run)


def _chunks(items: Sequence[Item], form: ImageForm, workers: Optional[int], start: int) -> Iterator[Chunk]:
    most = -(-(len(items) - start) // (CHUNK_ITEMS * CHUNKS_PER_WORKER))
    workers = min(workers or all_cores(), most)
    return in_order(functools.partial(read_items, form=form), grouped(items, start, CHUNK_ITEMS), workers)


def refuse_inside(out: Path, folder: str) -> None:
    """Check that ``out`` does not lie in the folder of images, where the next run would take it for a class."""
    place, target = Path(folder).resolve(), Path(out).resolve()
    if place == target or place in target.parents:
        hint = "it would be taken for a class of images: write it beside the folder"
        raise Error(f"lies inside the folder of images '{folder}'", str(out), hint)


# ---- Folders -------------------------------------------------------------------------------------------------------


def list_folder(
    folder: str, test_share: Optional[float] = None, seed: int = SEED, note: Callable[[str], None] = lambda text: None
) -> Listing:
    """Return the images of a folder that holds train/<class>/ and val/<class>/, or <class>/ alone.

    In the second case ``test_share`` (0.1 when None) of each class is drawn for testing. Classes are numbered in the
    order of their names. ``note`` hears of files that are passed over. Raises Error when a class has no images and when
    classes do not agree.
    """
    _check_share(test_share)
    root = Path(folder)
    if not root.is_dir():
        raise Error("is no folder" if root.exists() else "there is no such folder", where=folder)
    halves = [half for half in HALVES if (root / half).is_dir()]
    if len(halves) == 1:
        missing = "val" if halves == ["train"] else "train"
        hint = f"to split one set of classes, name '{root / halves[0]}' and the share to test with"
        raise Error(f"there is a folder '{halves[0]}' but no folder '{missing}'", where=folder, hint=hint)
    other: Counter = Counter()
    by_class = [_list_classes(place, root, other) for place in ([root / half for half in HALVES] if halves else [root])]
    strays = _count_images({root, *(root / half for half in halves)})
    if other or strays:
        note(_passed_over(other, strays))
    return _two_halves(*by_class, test_share, folder) if halves else _split_one(*by_class, test_share, seed, folder)


def _count_images(folders: Iterable[Path]) -> int:
    """Return how many images lie right in the folders."""
    try:
        return sum(_is_image(one.name) and one.is_file() for folder in folders for one in folder.iterdir())
    except OSError as error:
        raise Error(f"cannot be read: {error.strerror}", where=str(error.filename)) from None


def _passed_over(other: Counter, strays: int) -> str:
    """Say which files of a folder are left out: ``other`` counts suffixes that are no images', ``strays`` images."""
    common = other.most_common(SUFFIXES_SHOWN)
    suffixes = ", ".join(f"{suffix or 'without a suffix'} {count}" for suffix, count in common)
    more = ", ..." if len(other) > SUFFIXES_SHOWN else ""
    parts = [f"{plural(sum(other.values()), 'file')} of other kinds ({suffixes}{more})"] if other else []
    parts += [f"{plural(strays, 'image')} outside of the folders of classes"] if strays else []
    return f"passed over: {' and '.join(parts)}; images are {' '.join(IMAGE_SUFFIXES)}"


def _check_share(test_share: Optional[float]) -> None:
    if test_share is not None and not 0 < test_share < 1:
        raise Error(f"the share to test with must lie between 0 and 1, not {test_share}")


def _split_one(by_class: ByClass, test_share: Optional[float], seed: int, source: str) -> Listing:
    """Draw the share of each class for testing: at least one image where there are two, and never all of them."""
    train: List[Item] = []
    test: List[Item] = []
    for label, items in enumerate(by_class.values()):
        drawn = shuffled([item._replace(label=label) for item in items], seed)
        count = min(max(round((test_share or TEST_SHARE) * len(items)), 1), len(items) - 1)
        test.extend(drawn[:count])
        train.extend(drawn[count:])
    return Listing(tuple(by_class), train, test, (source,))


def _two_halves(train: ByClass, test: ByClass, test_share: Optional[float], where: str) -> Listing:
    if test_share is not None:
        raise Error("has the folders train and val: there is nothing to split", where=where)
    unknown = sorted(set(test) - set(train))
    if unknown:
        place = os.path.join(where, "val")
        raise Error(f"class '{unknown[0]}' is not among the classes of train", where=place)
    labels = {name: label for label, name in enumerate(train)}
    halves = ([item._replace(label=labels[name]) for name in half for item in half[name]] for half in (train, test))
    return Listing(tuple(train), *halves, (where,))


def _list_classes(folder: Path, root: Path, other: Counter) -> ByClass:
    """Return the images of each class, both in the order of names.

    Hidden files and other kinds are passed over; ``other`` counts the latter by suffix.
    """
    try:
        names = sorted(one.name for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
        by_class = {name: _list_files(folder / name, root, other) for name in names}
    except OSError as error:
        raise Error(f"cannot be read: {error.strerror}", where=str(error.filename)) from None
    if not names:
        hint = "images are wanted as CLASS/IMAGE, with a folder for each class"
        raise Error("there are no folders of classes in it", str(folder), hint)
    return _checked_classes(by_class, str(folder))


def _checked_classes(by_class: ByClass, where: str) -> ByClass:
    for name, items in by_class.items():
        if "\n" in name:
            raise Error(f"the class {name!r} has a line break in its name", where=where)
        if not items:
            hint = f"an image's name ends in one of {' '.join(IMAGE_SUFFIXES)}"
            raise Error(f"class '{name}' has no images", where=where, hint=hint)
    return by_class


def _list_files(folder: Path, root: Path, other: Counter) -> List[Item]:
    def fail(error: OSError) -> None:
        raise error

    found = []
    for place, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if _is_image(name):
                path = os.path.join(place, name)
                found.append(Item(os.path.relpath(path, root), 0, Place(path)))
            elif not name.startswith("."):
                other[os.path.splitext(name)[1].lower()] += 1
    return sorted(found)


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


# ---- Lists ---------------------------------------------------------------------------------------------------------


def list_files(
    train: str, test: Optional[str], root: str = "", classes: Optional[Sequence[str]] = None,
    test_share: Optional[float] = None, seed: int = SEED,
) -> Listing:
    """Return the images that lists name, one 'FILE LABEL' a line as Caffe has them, below the folder ``root``.

    Without ``test``, ``test_share`` (0.1 when None) of each label is drawn for testing. Without ``classes`` the
    labels' numbers are the names. Raises Error naming the line.
    """
    _check_share(test_share)
    if test is not None and test_share is not None:
        raise Error("a second list and a share to test with exclude one another")
    halves = [read_list(path, None if classes is None else len(classes)) for path in (train, test) if path is not None]
    named = [[Item(name, label, Place(os.path.join(root, name))) for name, label in half] for half in halves]
    _check_root(named[0], train, root)
    if classes is None:
        highest = max(item.label for half in named for item in half)
        if highest >= MOST_UNNAMED:
            raise Error(f"holds the label {highest}", train, "labels count classes from 0; --labels FILE names them")
        classes = [str(label) for label in range(highest + 1)]
    if test is not None:
        return Listing(tuple(classes), *named, (root,))
    by_label: ByClass = {name: [] for name in classes}
    for item in named[0]:
        by_label[classes[item.label]].append(item)
    return _split_one(by_label, test_share, seed, root)


def read_list(path: str, classes: Optional[int] = None) -> List[Tuple[str, int]]:
    """Return the file names and labels in a list, whose last words are the labels. Raises Error naming the line."""
    found = []
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        name, _, label = line.strip().replace("\t", " ").rpartition(" ")
        if not name.strip() or not label.isdecimal() or int(label) >= 2**31:
            hint = "write one image a line: its file, a space, its label, which is a whole number from 0"
            raise Error(f"'{line.strip()}' is no file with a label", f"{path}:{number}", hint)
        if classes is not None and int(label) >= classes:
            raise Error(f"the label {label} is not among the {classes} classes", f"{path}:{number}")
        found.append((name.strip(), int(label)))
    if not found:
        raise Error("names no images", path)
    return found


def read_names(path: str) -> List[str]:
    """Return the class names in a file, one a line."""
    names = list(_lines(path))
    while names and not names[-1].strip():
        names.pop()
    if not names:
        raise Error("holds no class names", path)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise Error(f"holds the class name '{twice[0]}' twice", path)
    return names


def _lines(path: str) -> List[str]:
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
            lines = [line.rstrip("\r\n") for line in file]
    except OSError as error:
        raise Error(f"cannot be read: {error.strerror}", path) from None
    if any("\0" in line for line in lines):
        raise Error("is binary, and a text is wanted", path)
    return lines


def _check_root(items: Sequence[Item], path: str, root: str) -> None:
    """Check that the first image is there, or some other one: a wrong root would skip them all, one by one."""
    if any(os.path.lexists(item.place.path) for item in items[:1000]):
        return
    beside = os.path.dirname(os.path.abspath(path))
    there = os.path.lexists(os.path.join(beside, items[0].name))
    hint = f"--root {beside}" if there else "--root DIR names the folder that the list's files lie in"
    raise Error(f"there is no file '{items[0].place.path}', which the list names, nor the following ones", path, hint)


# ---- Tar files -----------------------------------------------------------------------------------------------------


def list_tar(
    train: str, test: Optional[str] = None, test_list: Optional[str] = None, test_share: Optional[float] = None,
    seed: int = SEED,
) -> Listing:
    """Return the images of a tar file that holds what ``list_folder`` takes, or one tar file for each class.

    ``test`` is a second one with images of the same classes; ``test_list`` gives their labels where it has no folders,
    as ImageNet's. Raises Error when a tar file is damaged, and as ``list_folder`` does.
    """
    _check_share(test_share)
    found = _folders_above_removed(members(train))
    if test is None:
        halves = [_below(found, half) for half in HALVES]
        if all(halves):
            return _two_halves(*(_tar_classes(half, train) for half in halves), test_share, train)
        return _split_one(_tar_classes(found, train), test_share, seed, train)
    by_class = _tar_classes(found, train)
    others = members(test)
    if test_list is None:
        both = _two_halves(by_class, _tar_classes(_folders_above_removed(others), test), test_share, test)
        return both._replace(sources=(train, test))
    labels = dict(read_list(test_list, len(by_class)))
    images = {os.path.basename(one.name): one for one in others}
    missing = [name for name in labels if os.path.basename(name) not in images]
    if missing:
        raise Error(f"there is no '{missing[0]}' in it, which '{test_list}' names", test)
    tested = [_item(images[os.path.basename(name)], test, label) for name, label in sorted(labels.items())]
    train_only = _two_halves(by_class, {}, test_share, train)
    return train_only._replace(test=tested, sources=(train, test))


def _item(member: Member, tar: str, label: int = 0) -> Item:
    return Item(member.name, label, Place(tar, member.offset, member.length))


def _folders_above_removed(found: List[Member]) -> List[Member]:
    """Take away the folders that all members lie in, as long as a folder for the class is left.

    Files beside the folders of classes count no more than in ``list_folder``.
    """
    while True:
        firsts = {one.name.partition("/")[0] for one in found if "/" in one.name}
        if len(firsts) != 1 or all(one.name.count("/") < 2 for one in found):
            return found
        found = _below(found, firsts.pop())


def _below(found: Iterable[Member], folder: str) -> List[Member]:
    start = folder + "/"
    return [one._replace(name=one.name[len(start) :]) for one in found if one.name.startswith(start)]


def _tar_classes(found: Iterable[Member], tar: str) -> ByClass:
    by_class: ByClass = {}
    for member in found:
        folder, slash, _ = member.name.partition("/")
        if slash:
            by_class.setdefault(folder, []).append(_item(member, tar))
    if not by_class:
        hint = "images are wanted as CLASS/IMAGE, or in a tar file for each class"
        raise Error("there are no folders of classes in it", tar, hint)
    return _checked_classes({name: sorted(by_class[name]) for name in sorted(by_class)}, tar)
