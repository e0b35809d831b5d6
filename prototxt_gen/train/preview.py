"""What a net really sees: the images that its data layer gives, made by that layer in our Caffe, on one sheet.

    value = (pixel - mean) * scale        so        pixel = value / scale + mean

with the layer's own mean_value and scale. A mean_file is left out of the layer instead: where its images are cut out of
larger ones, nothing tells which of the file's means was taken from which pixel.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from prototxt_gen.core.data_layers import LABELLED_TYPES, source_of, transform_of
from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import CaffeError, Error
from prototxt_gen.core.graph import TRAIN, layers_in
from prototxt_gen.core.io import dumps, write_whole
from prototxt_gen.train import preflight
from prototxt_gen.train.caffe import Caffe, child_environment
from prototxt_gen.train.data import LABELS_FILE
from prototxt_gen.train.data_lmdb import EXTRA_HINT

LEAST_TILE_PX = 96  # smaller images are enlarged by a whole factor
CAPTION_PX = 14
MARGIN_PX = 4
CAPTION_GLYPH_PX = 6
FONT, FONT_PX = "DejaVuSans.ttf", 10  # where it is installed, for what Pillow's own font lacks: all beyond ASCII


class Preview(NamedTuple):
    """Images (N, H, W, 3) or (N, H, W), uint8, in the order R, G, B, and a label for each; none without a label top."""

    layer: str
    type: str
    images: Any
    labels: Sequence[int]
    clipped: float  # share of the values that were below 0 or above 255


def find_layer(net: Any, state: Any, where: str) -> Any:
    """Return the first layer of a net in a state that gives images."""
    for layer in layers_in(net, state):
        if layer.type in LABELLED_TYPES and layer.top:
            return layer
    hint = f"layers of the types {', '.join(LABELLED_TYPES)} can be shown"
    raise Error(f"no layer reads images in phase {'TRAIN' if state.phase == TRAIN else 'TEST'}", where, hint)


def preview(layer: Any, state: Any, where: str, caffe: Caffe, count: int, seed: int) -> Preview:
    """Let a data layer make ``count`` images in our Caffe, in a child process, and undo its mean and scale.

    Paths in the layer are taken from the current directory. Raises Error for a source that is not in order, CaffeError
    where Caffe fails.
    """
    import numpy as np

    net = DEFAULT_DIALECT.message("NetParameter")(layer=[layer])
    alone = net.layer[0]
    for rules in (alone.include, alone.exclude):
        del rules[:]
    preflight.check_net(preflight.UsedNet(net, state, where), where, caffe.layers)
    param, transform = source_of(alone), transform_of(alone)
    transform.ClearField("mean_file")
    param.batch_size = batch = max(1, min(param.batch_size, count))
    job = dict(phase=state.phase, seed=seed, batches=-(-count // batch), tops=list(alone.top))
    made = _run(net, job, caffe, where)
    values = np.concatenate(made["data"])[:count].astype(np.float64)
    labels = np.concatenate(made["label"])[:count].astype(int).tolist() if "label" in made else []
    if values.ndim != 4 or values.shape[1] not in (1, 3):
        shape = "x".join(map(str, values.shape[1:]))
        raise Error(f"layer '{alone.name}' gives {shape}, which is no image", where, "1 or 3 channels can be shown")
    if transform.scale == 0:
        raise Error(f"layer '{alone.name}' has scale 0: all its images are alike", where)
    mean = np.array(list(transform.mean_value) or [0.0]).reshape(1, -1, 1, 1)
    pixels = np.rint(values / transform.scale + mean)
    clipped = float(np.mean((pixels < 0) | (pixels > 255)))
    images = pixels.clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)[..., ::-1]
    return Preview(alone.name, alone.type, images[..., 0] if images.shape[-1] == 1 else images, labels, clipped)


def _run(net: Any, job: Dict[str, Any], caffe: Caffe, where: str) -> Dict[str, List[Any]]:
    """Return the batches that the net's layer makes, by ``data`` and ``label``."""
    import numpy as np

    with tempfile.TemporaryDirectory(prefix="prototxt-gen-") as folder:
        place = Path(folder)
        (place / "net.prototxt").write_text(dumps(net))
        (place / "job.json").write_text(json.dumps(job))
        command = [sys.executable, "-m", "prototxt_gen.train.preview_child", folder]
        environment = {**child_environment(caffe), "GLOG_minloglevel": "2"}
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
        if done.returncode != 0:
            raise CaffeError(f"Caffe fails on layer '{net.layer[0].name}': {_reason(done.stderr)}", where)
        return {kind: [np.load(place / f"{kind}{number}.npy") for number in range(job["batches"])]
                for kind, _ in zip(("data", "label"), job["tops"])}


def _reason(said: str) -> str:
    """Return the line in which Caffe says what is wrong: that of the failed CHECK, or its last."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    fatal = [line for line in lines if line.startswith("F") and "]" in line]
    return fatal[0].partition("] ")[2] if fatal else lines[-1] if lines else "it said nothing"


def class_names(path: Optional[str], source: str) -> List[str]:
    """Return the class names in a file, one a line; by default of the labels.txt beside the source, if there is one."""
    file = Path(path) if path else Path(os.path.dirname(os.path.abspath(source)), LABELS_FILE)
    if path is None and not file.is_file():
        return []
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise Error(f"cannot be read: {error.strerror}", str(file)) from None
    if "\0" in text:
        raise Error("is binary, and class names are wanted, one a line", str(file))
    return text.splitlines()


def write_sheet(path: str, shown: Preview, names: Sequence[str], title: str) -> None:
    """Write images as a PNG, in rows, with the class below each and a title above."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise Error("a preview needs the Python package 'Pillow'", hint=EXTRA_HINT) from None
    height, width = shown.images.shape[1:3]
    factor = max(1, -(-LEAST_TILE_PX // max(height, width)))
    tile_w, tile_h = factor * width, factor * height
    columns = max(1, min(len(shown.images), round(math.sqrt(len(shown.images) * (tile_h + CAPTION_PX) / tile_w * 1.6))))
    rows = -(-len(shown.images) // columns)
    size = (MARGIN_PX + columns * (tile_w + MARGIN_PX),
            CAPTION_PX + MARGIN_PX + rows * (tile_h + CAPTION_PX + MARGIN_PX))
    sheet = Image.new("RGB", (max(size[0], CAPTION_GLYPH_PX * len(title) + 2 * MARGIN_PX), size[1]), "white")
    draw = ImageDraw.Draw(sheet)
    own = ImageFont.load_default()
    try:
        others = ImageFont.truetype(FONT, FONT_PX)
    except OSError:
        others = None

    def write(x: int, y: int, text: str, most: int) -> None:
        drawn = text if others else _plain(text)
        draw.text((x, y), drawn[:most], "black", own if drawn.isascii() else others)

    write(MARGIN_PX, 2, title, len(title))
    most = tile_w // CAPTION_GLYPH_PX
    for index, pixels in enumerate(shown.images):
        row, column = divmod(index, columns)
        x = MARGIN_PX + column * (tile_w + MARGIN_PX)
        y = CAPTION_PX + MARGIN_PX + row * (tile_h + CAPTION_PX + MARGIN_PX)
        tile = Image.fromarray(pixels).convert("RGB").resize((tile_w, tile_h), Image.NEAREST)
        sheet.paste(tile, (x, y))
        if shown.labels:
            label = shown.labels[index]
            text = names[label] if 0 <= label < len(names) else str(label)
            write(x, y + tile_h + 1, text, most)
    write_whole(path, lambda file: sheet.save(file, "PNG"))


def _plain(text: str) -> str:
    """Return a text in ASCII: letters without their accents, and '?' for the rest."""
    parts = unicodedata.normalize("NFKD", text)
    return "".join(one if one.isascii() else "?" for one in parts if not unicodedata.combining(one))
