"""How commands read their arguments: NET, and ``--set FIELD=VALUE``."""

from __future__ import annotations

import os
import sys
from typing import Any, Dict, Iterable, Tuple

import click
from google.protobuf.message import DecodeError

from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error, did_you_mean
from prototxt_gen.core.io import Model, display_name, loads
from prototxt_gen.core.upgrade import upgrade_net
from prototxt_gen.nets.configs import NETWORKS


def load_net(argument: str, quiet: bool = False) -> Model:
    """Return the net that a NET argument means: a file, ``-``, or a network's name for its training net.

    A file is prototxt text or a binary NetParameter, such as a caffemodel. An old net is upgraded, with a note on
    stderr unless ``quiet``. A network's name wins over a file of that name; ``./NAME`` is the file.
    """
    where = display_name(argument)
    net, notes = upgrade_net(read_net(argument).net, where)
    if notes and not quiet:
        click.echo(f"note: {where}: {'; '.join(notes)}", err=True)
    return Model(net)


def read_net(argument: str) -> Model:
    """Return the net that a NET argument means, an old one as it stands."""
    if argument in NETWORKS:
        from prototxt_gen.nets.builder import DataEnds, build

        config = NETWORKS[argument]
        return build(config, data=DataEnds(mean=config.mean))
    return Model(_parse_net(_read_bytes(argument), display_name(argument)))


def _read_bytes(path: str) -> bytes:
    if path != "-" and not os.path.exists(path):
        hint = did_you_mean(path, NETWORKS, "prototxt-gen list shows the networks")
        raise Error(f"there is no network and no file '{path}'", hint=hint)
    try:
        if path == "-":
            return sys.stdin.buffer.read()
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise Error(f"cannot be read: {error.strerror}", display_name(path)) from None


def _parse_net(data: bytes, where: str) -> Any:
    """Parse a NetParameter from text, or from binary where it is no text."""
    message_class = DEFAULT_DIALECT.message("NetParameter")
    try:
        net = loads(data.decode(), message_class, where)
        if not net.IsInitialized():  # which Python's parser lets pass, and Caffe's refuses
            raise Error(f"lacks {', '.join(net.FindInitializationErrors())}, which Caffe requires", where)
        return net
    except UnicodeDecodeError:
        complaint = Error("is neither prototxt text nor a binary net", where)
    except Error as error:
        complaint = error
    try:
        net = message_class.FromString(data)
    except DecodeError:
        raise complaint from None
    # Any few bytes may parse as binary; without a layer it is a text with a mistake.
    if not (net.layer or net.layers) or not _holds_text(net):
        raise complaint
    return net


def _holds_text(message: Any) -> bool:
    """True when every string outside the blobs is text. protobuf hands out bytes for those of a binary that are not."""
    waiting = [message]
    while waiting:
        for field, value in waiting.pop().ListFields():
            several = value if hasattr(value, "append") or hasattr(value, "add") else [value]
            if field.message_type is not None and field.name != "blobs":
                waiting.extend(several)
            elif field.type == field.TYPE_STRING and not all(isinstance(one, str) for one in several):
                return False
    return True


def assignments(settings: Iterable[str]) -> Dict[str, str]:
    """Read the values of ``--set FIELD=VALUE``."""
    values = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals:
            raise Error(f"--set {text} has no '='", hint="write --set FIELD=VALUE")
        values[name.strip()] = value.strip()
    return values


def input_shapes(inputs: Iterable[str]) -> Dict[str, Tuple[int, ...]]:
    """Read the values of ``--input BLOB=N,C,H,W``."""
    shapes = {}
    for text in inputs:
        name, _, sizes = text.rpartition("=")
        try:
            shape = tuple(int(size) for size in sizes.split(","))
        except ValueError:
            shape = ()
        if not name or not shape or min(shape) < 1:
            raise Error(f"--input {text} is no shape", hint="write --input data=64,3,224,224")
        shapes[name] = shape
    return shapes
