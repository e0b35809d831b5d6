"""Prototxts in and out: reading with line and column, printing, atomic writing."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
import tempfile
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Callable, List, Mapping, Optional, Sequence, Tuple

from google.protobuf import text_format

from prototxt_gen.core.dialects import DEFAULT_DIALECT, DIALECTS, Dialect
from prototxt_gen.core.errors import Error, did_you_mean

Write = Callable[[BinaryIO], Any]  # writes the content of an open file
BYTE_ORDER_MARK = "\ufeff"  # as some editors begin a file with it


@dataclass(frozen=True, eq=False)
class Model:
    """A net, the dialect it is written in, and its weights.

    ``net`` is the dialect's NetParameter, without blobs. ``blobs`` maps a layer's name to its parameter blobs in
    Caffe's order, numpy arrays that nobody edits; it is empty for a pure architecture. Layers of one name share an
    entry.
    """

    net: Any
    dialect: Dialect = DEFAULT_DIALECT
    blobs: Mapping[str, Tuple[Any, ...]] = field(default_factory=dict)

    def dumps(self) -> str:
        """Return the net as prototxt text."""
        return dumps(self.net)


def dumps(message: Any) -> str:
    """Return a message as prototxt text, fields in the order of their numbers."""
    return text_format.MessageToString(message)


def loads(text: str, message_class: Any, where: str = "<text>") -> Any:
    """Parse prototxt text into a new message of ``message_class``.

    Raises Error with ``where:line:column`` for text that does not parse or does not fit the schema.
    """
    if text.startswith(BYTE_ORDER_MARK):
        raise Error("begins with a byte order mark, which Caffe cannot read", where, "save it as UTF-8 without one")
    message = message_class()
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise _other_kind(text, message_class, where) or _parse_error(error, message_class, where) from None
    except (RecursionError, ValueError) as error:
        raise Error(f"does not parse as {message_class.DESCRIPTOR.name}: {error}", where) from None
    return message


def read_text(path: str) -> str:
    """Return the text of a file, or of standard input for ``-``."""
    try:
        if path == "-":
            return sys.stdin.read()
        with open(path, encoding="utf-8") as file:
            return file.read()
    except UnicodeDecodeError as error:
        hint = "a prototxt is wanted here; a caffemodel is binary"
        raise Error(f"is not text: byte {error.start} is not UTF-8", display_name(path), hint) from None
    except OSError as error:
        raise Error(f"cannot be read: {error.strerror}", display_name(path)) from None


def read_message(path: str, message_class: Any) -> Any:
    """Read a prototxt file (``-``: standard input) as a message of ``message_class``."""
    return loads(read_text(path), message_class, display_name(path))


def read_model(path: str, dialect: Dialect = DEFAULT_DIALECT) -> Model:
    """Read the net in a prototxt file."""
    return Model(read_message(path, dialect.message("NetParameter")), dialect)


def write_text(path: str, text: str) -> None:
    """Write a text file whole or not at all, as ``write_whole`` does."""
    write_whole(path, text_writer(text))


def text_writer(text: str) -> Write:
    """Return what writes a text."""
    return lambda file: file.write(text.encode("utf-8"))


def write_whole(path: str, write: Write) -> None:
    """Write a file whole or not at all: its name never stands for half of one, whatever happens on the way.

    ``write`` is called once, with the open file. A symbolic link is followed; a device or pipe is written to as it is.
    """
    write_together([(path, write)])


def write_together(files: Sequence[Tuple[str, Write]]) -> None:
    """Write several files as ``write_whole`` does, and none of them where one cannot be written."""
    waiting: List[Tuple[str, str, str]] = []  # the path, its target, and the written file that will take its place
    path = ""
    try:
        for path, write in files:
            target = os.path.realpath(path)
            if os.path.exists(target) and not stat.S_ISREG(os.stat(target).st_mode):
                with open(path, "wb") as file:
                    write(file)
            else:
                waiting.append((path, target, _write_beside(target, write)))
        while waiting:
            path, target, partial = waiting[0]
            os.replace(partial, target)
            waiting.pop(0)
    except OSError as error:
        raise Error(f"cannot be written: {error.strerror}", path) from None
    finally:
        for _, _, partial in waiting:
            os.unlink(partial)


def display_name(path: str) -> str:
    """Return the name by which messages call a file argument."""
    return "<stdin>" if path == "-" else path


def _write_beside(target: str, write: Write) -> str:
    """Write a new file in the target's folder, and return its name."""
    folder, name = os.path.split(target)
    if os.path.exists(target) and not os.access(target, os.W_OK, effective_ids=True):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    handle, partial = tempfile.mkstemp(dir=folder, prefix=name + ".", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, _mode_of(target))
    except BaseException:
        os.unlink(partial)
        raise
    return partial


def _mode_of(target: str) -> int:
    if os.path.exists(target):
        return stat.S_IMODE(os.stat(target).st_mode)
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def _other_kind(text: str, message_class: Any, where: str) -> Optional[Error]:
    """Return what to say of a net that is read as a solver, or the other way round; None for anything else."""
    kinds = {"SolverParameter": "NetParameter", "NetParameter": "SolverParameter"}
    if message_class.DESCRIPTOR.name not in kinds:
        return None
    other = DEFAULT_DIALECT.message(kinds[message_class.DESCRIPTOR.name])()
    try:
        text_format.Parse(text, other, allow_unknown_field=True)
    except (text_format.ParseError, RecursionError, ValueError):
        return None
    if kinds[message_class.DESCRIPTOR.name] == "NetParameter":
        hint = "name the solver that trains it; prototxt-gen solver writes one"
        return Error("is a net, and a solver is wanted", where, hint) if other.layer or other.layers else None
    if not (other.lr_policy or other.HasField("base_lr") or other.HasField("max_iter")):
        return None
    nets = [net for net in (other.net, other.train_net) if net]
    hint = f"the net that it trains is '{nets[0]}'" if nets else "the net that it trains stands in it"
    return Error("is a solver, and a net is wanted", where, hint)


def _parse_error(error: text_format.ParseError, message_class: Any, where: str) -> Error:
    """Turn protobuf's complaint into ours: the place in front, the nearest field or value as the hint."""
    line, column = error.GetLine(), error.GetColumn()
    if line is not None:
        where = f"{where}:{line}:{column}"
    what = re.sub(r"^\d+:\d+ : ", "", str(error)).rstrip(".")
    pool = message_class.DESCRIPTOR.file.pool
    unknown_field = re.match(r'Message type "([\w.]+)" has no field named "([^"]*)"', what)
    if unknown_field:
        owner, name = unknown_field.groups()
        fields = [one.name for one in pool.FindMessageTypeByName(owner).fields]
        owner = owner.rpartition(".")[2]
        forks = [one.name for one in DIALECTS.values() if name in one.message(owner).DESCRIPTOR.fields_by_name]
        hint = f"dialects with that field: {', '.join(forks)}; --dialect names the one of this net"
        if not forks:
            hint = did_you_mean(name, fields, "; ".join(_owners(pool, name)))
        return Error(f"{owner} has no field '{name}'", where, hint)
    unknown_value = re.search(r'Enum type "([\w.]+)" has no value named "?([^".]*)', what)
    if unknown_value:
        enum, name = unknown_value.groups()
        values = [one.name for one in pool.FindEnumTypeByName(enum).values]
        listing = f"its values are {', '.join(values)}"
        return Error(f"{enum.rpartition('.')[2]} has no value '{name}'", where, did_you_mean(name, values, listing))
    return Error(what, where)


def _owners(pool: Any, field_name: str) -> list:
    """Say which messages do have a field of this name, for one written in the wrong place."""
    messages = pool.FindFileContainingSymbol("caffe.NetParameter").message_types_by_name
    owners = [name for name, one in messages.items() if field_name in one.fields_by_name]
    return [f"it is a field of {', '.join(owners)}"] if owners else []
