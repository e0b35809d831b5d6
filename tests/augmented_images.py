"""What tests of AugmentedData share: pictures, as records and as files of a list, and the layer that reads them."""

from pathlib import Path

import cv2
import numpy as np

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.train.data import write_lmdb

Datum = DEFAULT_DIALECT.message("Datum")


def picture(height, width, channels=3, seed=0):
    """Smooth shapes and some noise, as photographs have."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 5, channels)).astype(np.uint8)
    fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, channels)
    return np.clip(fine + rng.normal(0, 8, fine.shape), 0, 255).astype(np.uint8)


def pictures(count, low=20, high=90):
    sides = np.random.default_rng(1).integers(low, high, (count, 2))
    return [picture(int(h), int(w), seed=i) for i, (h, w) in enumerate(sides)]


def raw(image, label):
    return Datum(channels=image.shape[2], height=image.shape[0], width=image.shape[1], label=label,
                 data=np.ascontiguousarray(image.transpose(2, 0, 1)).tobytes()).SerializeToString()


def encoded(image, label, kind=".png", *settings):
    data = cv2.imencode(kind, image, list(settings))[1].tobytes()
    return Datum(label=label, encoded=True, data=data).SerializeToString()


def lmdb_of(name, values):
    write_lmdb(Path(name), ((f"image{i}", value) for i, value in enumerate(values)))


def list_of(images):
    """Write PNG files and their list; the label of an image is its number."""
    Path("pictures").mkdir()
    lines = []
    for i, image in enumerate(images):
        cv2.imwrite(f"pictures/no {i}.png", image)
        lines.append(f"no {i}.png {i}\n" if i % 2 else f"no {i}.png   {i} \r\n\n")
    Path("list.txt").write_text("".join(lines).rstrip("\n"))
    return 'source: "list.txt" backend: LIST root_folder: "pictures/"'


def layer(fields, tops=("data", "label"), name="data", extra=""):
    tops = " ".join(f'top: "{top}"' for top in tops)
    return f'layer {{ name: "{name}" type: "AugmentedData" {tops} {extra} augmented_data_param {{ {fields} }} }}\n'
