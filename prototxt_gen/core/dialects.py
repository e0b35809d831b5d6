"""The dialects of Caffe's schema: one value per fork.

A text prototxt carries field names only and reads the same in every dialect that knows the names. A binary caffemodel
carries field numbers, and there the forks disagree: 147 is ``interp_param`` to one and ``swish_param`` to another.

``schema/caffe.proto`` is the schema of the ``attention`` dialect, which the Caffe built by this project speaks; every
other dialect is told here by how it differs. Each has a descriptor pool of its own, so that dialects live beside one
another and beside a loaded pycaffe.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Mapping, Optional, Tuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from prototxt_gen.core.errors import Error, did_you_mean

SCHEMA_DIR = Path(__file__).resolve().parent / "schema"
PROTO_FILE = SCHEMA_DIR / "caffe.proto"
DESCRIPTOR_FILE = SCHEMA_DIR / "caffe.desc"


@dataclass(frozen=True)
class Dialect:
    """How one fork's schema differs from ``schema/caffe.proto``.

    ``numbers`` gives fields of LayerParameter another number, ``lacks`` takes fields of LayerParameter away.
    ``bn_blob_shape`` is the shape of each of BN's four blobs for C channels. ``bn_statistic`` says what the fourth one
    holds: ``"inv-std"``, ``"variance"``, or None where it depends on the engine that trained the model.
    """

    name: str
    about: str
    numbers: Mapping[str, int] = field(default_factory=dict)
    lacks: Tuple[str, ...] = ()
    bn_statistic: Optional[str] = None
    bn_blob_shape: Optional[str] = None

    def message(self, name: str) -> Any:
        """Return the class of a message, such as ``message("NetParameter")``."""
        return _message(self.name, name)


DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect(
            "attention",
            "the fork of the Residual Attention Networks, and the Caffe that this project builds",
            bn_statistic="inv-std",
            bn_blob_shape="(1, C, 1, 1)",
        ),
        Dialect(
            "bvlc",
            "BVLC Caffe 1.0",
            numbers={"swish_param": 147, "clip_param": 148},
            lacks=("interp_param", "bn_param", "augmented_data_param"),
        ),
        Dialect(
            "happynear",
            "happynear/caffe-windows, where the merged BN layer comes from",
            numbers={"bn_param": 200},
            lacks=("interp_param", "swish_param", "clip_param", "augmented_data_param"),
            bn_blob_shape="(1, C)",
        ),
        Dialect(
            "pspnet",
            "the fork of PSPNet",
            numbers={"interp_param": 143, "bn_param": 152},
            lacks=(
                "augmented_data_param", "clip_param", "crop_param", "input_param", "parameter_param", "recurrent_param",
                "swish_param",
            ),
        ),
    )
}
DEFAULT_DIALECT = DIALECTS["attention"]


def in_full_schema(message: Any) -> Any:
    """Return a message of any dialect in the default one, which has every field: itself where it is of that already."""
    full = DEFAULT_DIALECT.message(message.DESCRIPTOR.name)
    if isinstance(message, full):
        return message
    return text_format.Parse(text_format.MessageToString(message), full())


def find_dialect(name: str) -> Dialect:
    """Return the dialect called ``name``."""
    if name not in DIALECTS:
        hint = did_you_mean(name, DIALECTS, f"known dialects: {', '.join(DIALECTS)}")
        raise Error(f"no dialect is called '{name}'", hint=hint)
    return DIALECTS[name]


def file_descriptor(dialect: Dialect) -> descriptor_pb2.FileDescriptorProto:
    """Return the schema of a dialect as a descriptor, with the fields it lacks taken out and the others renumbered."""
    schema = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTOR_FILE.read_bytes()).file[0]
    layer = next(message for message in schema.message_type if message.name == "LayerParameter")
    kept = [one for one in layer.field if one.name not in dialect.lacks]
    del layer.field[:]
    layer.field.extend(kept)
    for one in layer.field:
        one.number = dialect.numbers.get(one.name, one.number)
    return schema


@lru_cache(maxsize=None)
def _pool(dialect_name: str) -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file_descriptor(DIALECTS[dialect_name]).SerializeToString())
    return pool


@lru_cache(maxsize=None)
def _message(dialect_name: str, message_name: str) -> Any:
    return message_factory.GetMessageClass(_pool(dialect_name).FindMessageTypeByName("caffe." + message_name))
