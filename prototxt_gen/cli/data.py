"""``prototxt-gen data``: images into LMDBs, and a look at what an LMDB holds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Callable, Optional, Tuple

import click

from prototxt_gen.cli.data_preview import preview
from prototxt_gen.cli.data_progress import NAMES_SHOWN, Progress, show_report, show_set, writing
from prototxt_gen.cli.output import write_stdout
from prototxt_gen.core.errors import Error
from prototxt_gen.spec.shapes import plural
from prototxt_gen.train import data_arrays, data_images, data_sources
from prototxt_gen.train.data import SEED, ImageSet, Run

FORCE = click.option("--force", is_flag=True, help="Replace OUT where it is a set of images.")
SHUFFLE = click.option("--shuffle/--no-shuffle", default=True, show_default=True,
                       help="Write the images in an order drawn at random, or in theirs.")
SEED_OPTION = click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=SEED, show_default=True,
                           help="Of the order and of the images drawn to test with.")
WORKERS = click.option("--workers", type=click.IntRange(min=1), metavar="N",
                       help="Decode in N processes.  [default: one for each core]")
TEST_SHARE = click.option(
    "--test-share", type=float, metavar="SHARE",
    help=f"Share of each class to test with, where nothing else tells.  [default: {data_sources.TEST_SHARE}]")
LABELS = click.option("--labels", metavar="FILE", help="Class names, one a line.  [default: the labels' numbers]")


def image_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a command that writes image files: their form, and how they are gone through."""
    for option in (
        FORCE, WORKERS, SEED_OPTION, SHUFFLE,
        click.option("--skip-corrupt/--stop-at-corrupt", default=True, show_default=True,
                     help="Name images that cannot be read and leave them out, or end at the first."),
        TEST_SHARE,
        click.option("--encoded/--raw", default=True, show_default=True,
                     help="Store JPEG files, or the pixels themselves."),
        click.option("--size", metavar="WxH", help="Resize to exactly W x H pixels instead."),
        click.option("--resize", type=click.IntRange(min=1), metavar="SHORT",
                     help=f"Resize to a short side of SHORT pixels.  [default: {data_images.SHORT_SIDE_PX}]"),
    ):
        command = option(command)
    return command


@click.group()
def data() -> None:
    """Make LMDBs from images, with class names and means; check LMDBs.

    OUT gets train_lmdb and test_lmdb, labels.txt with one class name a line, counts.txt with the images of each class,
    mean.txt with the mean of the channels blue, green and red, as a network's --mean takes it, and mean.binaryproto
    with the mean of each pixel where all images have one size. It appears only when all of it is written; until then it
    is called OUT.partial, and the same command goes on with it after it was stopped.
    """


data.add_command(preview)


@data.command("fashion-mnist")
@click.argument("out", metavar="OUT")
@click.option("--from", "source", metavar="DIR", default=data_arrays.FASHION_MNIST_DIR, show_default=True,
              help="Folder of the four .gz files.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Take the first N images of each split only.")
@SHUFFLE
@SEED_OPTION
@FORCE
def fashion_mnist(out: str, source: str, limit: Optional[int], **how: Any) -> None:
    """Make LMDBs of Fashion-MNIST.

    The images come from Debian's package dataset-fashion-mnist. They are padded to 32x32 and have three channels.
    """
    _write(out, lambda run: data_arrays.write_fashion_mnist(Path(out), source, limit, run), **how)


@data.command("idx")
@click.argument("folder", metavar="DIR")
@click.argument("out", metavar="OUT")
@click.option("--prefix", default="", help="What the files' names have before 'train' and 't10k'.")
@click.option("--pad", type=click.IntRange(min=0), metavar="PX", default=0, show_default=True,
              help="Border of zeros, such as 2 for 32x32 images from 28x28.")
@LABELS
@SHUFFLE
@SEED_OPTION
@FORCE
def idx(folder: str, out: str, prefix: str, pad: int, labels: Optional[str], **how: Any) -> None:
    """Make LMDBs of IDX files, named as MNIST's.

    DIR holds train-images-idx3-ubyte, train-labels-idx1-ubyte and the same for t10k (or test), each .gz or not.
    Grey images get three equal channels.
    """
    names = data_sources.read_names(labels) if labels else None
    _write(out, lambda run: data_arrays.write_idx(Path(out), folder, prefix, pad, names, run), **how)


@data.command("cifar")
@click.argument("source", metavar="SOURCE")
@click.argument("out", metavar="OUT")
@click.option("--coarse", is_flag=True, help="Take CIFAR-100's 20 superclasses.")
@SHUFFLE
@SEED_OPTION
@FORCE
def cifar(source: str, out: str, coarse: bool, **how: Any) -> None:
    """Make LMDBs of CIFAR-10 or CIFAR-100.

    SOURCE is the tar file of the binary version, such as cifar-10-binary.tar.gz, or the folder of its .bin files.
    """
    _write(out, lambda run: data_arrays.write_cifar(Path(out), source, coarse, run), **how)


@data.command("folder")
@click.argument("folder", metavar="DIR")
@click.argument("out", metavar="OUT")
@image_options
def folder(folder: str, out: str, test_share: Optional[float], **how: Any) -> None:
    """Make LMDBs of a folder of images.

    DIR holds train/CLASS/ and val/CLASS/, or CLASS/ alone, which is then split. Images that cannot be decoded are named
    and left out. Training then wants --crop, unless --size makes all images equal.
    """
    form = _form(**how)
    data_sources.refuse_inside(Path(out), folder)
    _write_listing(out, form, lambda run: data_sources.list_folder(folder, test_share, run.seed, run.note),
                   **how)


@data.command("list")
@click.argument("file", metavar="FILE")
@click.argument("out", metavar="OUT")
@click.option("--test", metavar="FILE", help="A second list, of the images to test with.")
@click.option("--root", metavar="DIR", default="", help="Folder in which the files lie.  [default: the current one]")
@LABELS
@image_options
def image_list(
    file: str, out: str, test: Optional[str], root: str, labels: Optional[str], test_share: Optional[float], **how: Any
) -> None:
    """Make LMDBs of images in a list.

    FILE has one image a line: its file, a space, its label from 0, as Caffe's convert_imageset takes it.
    """
    names = data_sources.read_names(labels) if labels else None
    _write_listing(out, _form(**how), lambda run: data_sources.list_files(file, test, root, names, test_share,
                                                                           run.seed), **how)


@data.command("tar")
@click.argument("file", metavar="FILE")
@click.argument("out", metavar="OUT")
@click.option("--test", metavar="FILE", help="A second tar file, of the images to test with.")
@click.option("--test-list", metavar="LIST", help="Labels of the images in it, as data list takes them.")
@image_options
def tar(
    file: str, out: str, test: Optional[str], test_list: Optional[str], test_share: Optional[float], **how: Any
) -> None:
    """Make LMDBs of images in a tar file.

    FILE is not compressed and holds what data folder takes, or one tar file for each class, as ImageNet's. ImageNet's
    images to test with have no folders: give --test FILE.tar --test-list val.txt.
    """
    if test_list is not None and test is None:
        raise Error("--test-list needs --test")
    _write_listing(out, _form(**how), lambda run: data_sources.list_tar(file, test, test_list, test_share, run.seed),
                   **how)


@data.command("check")
@click.argument("lmdbs", metavar="LMDB...", nargs=-1, required=True)
@click.option("--classes", type=click.IntRange(min=1), metavar="N",
              help="How many classes there are.  [default: as labels.txt beside it tells]")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@WORKERS
def check(lmdbs: Tuple[str, ...], classes: Optional[int], as_json: bool, workers: Optional[int]) -> int:
    """Read an LMDB all through, and tell what it holds and what is wrong.

    LMDB is one, or a set of images. Exit code 1 when records are corrupt, cannot be reached, or do not go together;
    labels without images are told, but are not wrong.
    """
    from prototxt_gen.train.data_check import check_lmdb, lmdbs_in

    reports = []
    for path in (inside for one in lmdbs for inside in lmdbs_in(one)):
        with Progress("records") as progress:
            reports.append(check_lmdb(path, classes, workers, progress.show))
    if as_json:
        document = {"lmdbs": [report.as_dict() for report in reports], "ok": not any(r.problems() for r in reports)}
        write_stdout(json.dumps(document, indent=2, sort_keys=True) + "\n")
    else:
        for report in reports:
            show_report(report)
    return 1 if any(report.problems() for report in reports) else 0


def _form(resize: Optional[int], size: Optional[str], encoded: bool, **others: Any) -> data_images.ImageForm:
    if resize is not None and size is not None:
        raise Error("--resize and --size exclude one another")
    return data_images.ImageForm(resize or data_images.SHORT_SIDE_PX, _parse_size(size), encoded)


def _parse_size(text: Optional[str]) -> Optional[Tuple[int, int]]:
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if not match:
        raise Error(f"--size {text} is no size", hint="write width x height in pixels, such as 32x32")
    return int(match.group(1)), int(match.group(2))


def _write_listing(
    out: str, form: data_images.ImageForm, list_images: Callable[[Run], data_sources.Listing], seed: int,
    shuffle: bool, force: bool, workers: Optional[int], skip_corrupt: bool, **others: Any,
) -> None:
    def write(run: Run) -> ImageSet:
        return data_sources.write_listing(Path(out), list_images(run), form, run)

    _write(out, write, seed=seed, shuffle=shuffle, force=force, workers=workers, skip_corrupt=skip_corrupt)


def _write(out: str, write: Callable[[Run], ImageSet], **how: Any) -> None:
    """Write a set with what the options say, tell on the way, and sum it up."""
    skipped = []

    def skip(path: Path, reason: str) -> None:
        skipped.append(path)
        if len(skipped) <= NAMES_SHOWN:
            progress.say(f"skipped: {click.format_filename(path)}: {reason}")

    with writing(out), Progress("images") as progress:
        written = write(Run(progress=progress.show, skipped=skip, note=lambda text: progress.say(f"note: {text}"),
                            **how))
    if skipped:
        ending = "was" if len(skipped) == 1 else "were"
        click.echo(f"{plural(len(skipped), 'image')} could not be read and {ending} left out", err=True)
    show_set(out, written)
