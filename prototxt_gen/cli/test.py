"""``prototxt-gen test``: how often the weights of a net are right."""

from __future__ import annotations

import json
import os
from typing import Any, Dict, List, Optional, Tuple

import click

from prototxt_gen.cli.arguments import add_weights, load_net
from prototxt_gen.cli.data_progress import Progress
from prototxt_gen.cli.output import write_stdout
from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import display_name

WORST_SHOWN = 20
TAKEN_SHOWN = 3


@click.command("test", short_help="Accuracy of weights on a set of images, top-1 and top-5.")
@click.argument("net", metavar="NET")
@click.option("--weights", metavar="FILE|DIR", required=True,
              help="The weights, a caffemodel; of a folder of snapshots, a run or a recipe the newest that is whole.")
@click.option("--source", metavar="PATH",
              help="The images: an LMDB, a folder with a folder for each class, or a list of 'file label' lines.  "
                   "[default: the source of NET's TEST data layer]")
@click.option("--size", type=click.IntRange(min=1), metavar="PIXELS",
              help="Height and width of the crop.  [default: NET's own]")
@click.option("--resize-short", type=click.IntRange(min=1), metavar="PIXELS",
              help="Resize the short side of each image first.  [default: no; files of 64 pixels and more to 8/7 of "
                   "the crop: 256 for 224, 366 for 320]")
@click.option("--mean", metavar="MEAN",
              help="Subtracted: one value per channel (b,g,r), a file of them, a .binaryproto, or none.  "
                   "[default: NET's own]")
@click.option("--scale", type=float, metavar="X", help="Multiplied with after that.  [default: NET's own]")
@click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help="[default: NET's own in TEST, else 16]")
@click.option("--cpu", is_flag=True, help="Run on the CPU, as without --gpu.")
@click.option("--gpu", type=click.IntRange(min=0), metavar="ID", help="Run on this GPU.")
@click.option("--caffe", "root", metavar="DIR", help="The Caffe to run.  [default: as caffe info finds it]")
@click.option("--top", metavar="K,K...", help="How many guesses each image has.  [default: 1,5]")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Test with the first N images only.")
@click.option("--per-class", is_flag=True, help=f"Also the {WORST_SHOWN} worst classes, and what they are taken for.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, with every class.")
def test(
    net: str, weights: str, source: Optional[str], size: Optional[int], resize_short: Optional[int],
    mean: Optional[str], scale: Optional[float], batch_size: Optional[int], cpu: bool, gpu: Optional[int],
    root: Optional[str], top: Optional[str], limit: Optional[int], per_class: bool, as_json: bool,
) -> None:
    """Tell how often the weights of NET are right on a set of images, with one centre crop of each.

    NET is a net for training or for use, or a network's name. With NET's own size, mean, scale and batch the numbers
    are those of caffe test on the same LMDB.
    """
    from prototxt_gen.train import caffe as caffes
    from prototxt_gen.train import testing
    from prototxt_gen.train.newest_weights import newest_whole

    if cpu and gpu is not None:
        raise Error("--cpu and --gpu exclude one another")
    caffe = caffes.find(root, gpu is not None)
    where = display_name(net)
    model, lines = load_net(net), []
    if os.path.isdir(weights):
        weights, passed = newest_whole(model, weights)
        for note in passed:
            click.echo(f"note: {note}", err=True)
        lines.append(f"weights = {click.format_filename(weights)}")
    model = add_weights(model, weights)
    job = testing.plan(
        model, caffe, source=source, size=size, resize_short=resize_short, mean=_mean(mean), scale=scale,
        batch_size=batch_size, top=_top(top), limit=limit, where=where,
    )
    if job.crop.mean is None and mean is None:
        click.echo("note: no mean is subtracted: --mean gives one", err=True)
    with Progress("images") as progress:
        score = testing.run(job, caffe, gpu, progress.show)
    if as_json:
        write_stdout(json.dumps(_document(job, score), indent=2, sort_keys=True) + "\n")
        return
    lines.append(f"images = {sum(score.images.values())}")
    for k in job.top:
        right, share = _share(score, k)
        lines.append(f"top-{k} = {share:.2%} ({right})")
    write_stdout("".join(line + "\n" for line in [*lines, *(_class_lines(job, score) if per_class else ())]))


def _mean(text: Optional[str]) -> Any:
    from prototxt_gen.nets.builder import read_mean

    return None if text is None else read_mean(text, 3) or ()


def _top(text: Optional[str]) -> Optional[Tuple[int, ...]]:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise Error(f"--top {text} is no list of numbers", hint="write --top 1,5")
    return tuple(sorted({int(part) for part in parts}))


def _share(score: Any, k: int) -> Tuple[int, float]:
    right = sum(score.right[k].values())
    return right, right / sum(score.images.values())


def _class_lines(job: Any, score: Any) -> List[str]:
    """Return a table of the worst classes."""
    from prototxt_gen.train.testing import worst_classes

    worst = worst_classes(score)
    rows = [("class", "images", "right", "taken for")]
    for label in worst[:WORST_SHOWN]:
        taken = score.taken.get(label, {})
        most = sorted(taken, key=lambda one: (-taken[one], one))
        others = ", ".join(f"{_class_name(job, one)} {taken[one]}" for one in most[:TAKEN_SHOWN])
        images = score.images[label]
        right = (images - sum(taken.values())) / images
        rows.append((_class_name(job, label), str(images), f"{right:.1%}", others))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["", *(f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}".rstrip()
                   for row in rows)]
    left = len(worst) - WORST_SHOWN
    return [*lines, f"and {left} classes that are better"] if left > 0 else lines


def _class_name(job: Any, label: int) -> str:
    names = job.source.classes
    return names[label] if label < len(names) else str(label)


def _document(job: Any, score: Any) -> Dict[str, Any]:
    import numpy as np

    crop = job.crop
    right = {k: _share(score, k) for k in job.top}
    return {
        "batch_size": job.batch_size,
        "classes": [
            {
                "label": label,
                "name": _class_name(job, label),
                "images": score.images[label],
                "right": {str(k): score.right[k][label] for k in job.top},
                "taken_for": {str(one): number for one, number in score.taken.get(label, {}).items()},
            }
            for label in sorted(score.images)
        ],
        "images": sum(score.images.values()),
        "input": list(crop.size),
        "mean": None if crop.mean is None else "image" if np.ndim(crop.mean) > 1 else list(crop.mean),
        "resize_short": crop.resize_short,
        "scale": crop.scale,
        "top": {str(k): {"right": number, "share": share} for k, (number, share) in right.items()},
    }
