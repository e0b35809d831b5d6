"""How commands read their arguments: NET, and ``--set FIELD=VALUE``."""

from __future__ import annotations

import os
import re
import sys
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Callable, Dict, Iterable, Iterator, Mapping, Optional, Tuple

import click

from prototxt_gen.core.caffemodel import (
    NotBinary, is_hdf5, open_bytes, parse_weights, read_stream, read_weights, refuse_state, with_weights,
)
from prototxt_gen.core.caffemodel_dialect import upgrade_in_dialect
from prototxt_gen.core.dialects import DEFAULT_DIALECT, DIALECTS, Dialect
from prototxt_gen.core.errors import Error, did_you_mean
from prototxt_gen.core.io import Model, display_name, loads
from prototxt_gen.nets.configs import NETWORKS
from prototxt_gen.spec.infer import Shape
from prototxt_gen.spec.weights import fit_weights

NOTES_SHOWN = 3
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")  # the tags of layers have them, and texts have not

_MAX_ODD_TEXT = 2**26  # a text may hold such bytes too, but no file of this size is one


def dialect_option(text: str = "The fork that wrote NET; it matters where NET is binary.") -> Callable[[Any], Any]:
    """Return the option ``--dialect`` for a command, with its help ``text``."""
    return click.option("--dialect", type=click.Choice(list(DIALECTS)), default=DEFAULT_DIALECT.name,
                        show_default=True, help=text)


def load_net(argument: str, quiet: bool = False, dialect: Dialect = DEFAULT_DIALECT) -> Model:
    """Return the net that a NET argument means: a file, ``-``, or a network's name for its training net.

    A file is prototxt text or a binary NetParameter, such as a caffemodel, in ``dialect``; its blobs become the
    model's. An old net is upgraded, with a note on stderr unless ``quiet``. A network's name wins over a file of that
    name; ``./NAME`` is the file.
    """
    where = display_name(argument)
    model = read_net(argument, dialect)
    net, notes = upgrade_in_dialect(model.net, where)
    if notes and not quiet:
        click.echo(f"note: {where}: {'; '.join(notes)}", err=True)
    return replace(model, net=net)


def load_weights(argument: str, dialect: Dialect = DEFAULT_DIALECT) -> Model:
    """Return the model in a file of weights: a caffemodel, binary or HDF5, or a text with blobs.

    Of the net it tells what the file does, as it stands there: of HDF5 the layers' names only.
    """
    if argument != "-" and not os.path.exists(argument):
        raise Error(f"there are no weights '{argument}'", hint="a .caffemodel or .caffemodel.h5 is wanted")
    data = _bytes_of(argument)
    if is_hdf5(data) and argument != "-":
        return read_weights(argument, dialect)
    where = display_name(argument)
    model = _parse_net(data, where, dialect)
    if not model.blobs:
        raise Error("holds no weights", where, "a .caffemodel that Caffe has written is wanted, not the net")
    return model


def add_weights(model: Model, argument: str, given: Optional[Mapping[str, Shape]] = None) -> Model:
    """Return the model with the weights in a file, checked against its layers; what is left out is noted on stderr.

    ``given`` holds shapes of blobs that the net does not tell.
    """
    where = display_name(argument)
    model, notes = with_weights(model, load_weights(argument, model.dialect), where)
    try:
        model, bare = fit_weights(model, given)
    except Error as error:
        hint = error.hint or "are they the weights of this net?"
        raise Error(error.what, f"{where}: {error.where}" if error.where else where, hint) from None
    for note in notes[:NOTES_SHOWN]:
        click.echo(f"note: {where}: {note}", err=True)
    if len(notes) > NOTES_SHOWN:
        click.echo(f"note: {where}: {len(notes) - NOTES_SHOWN} more are left out likewise", err=True)
    for note in bare:
        click.echo(f"note: {where}: {note}", err=True)
    return model


def read_net(argument: str, dialect: Dialect = DEFAULT_DIALECT) -> Model:
    """Return the net that a NET argument means, an old one as it stands."""
    if argument in NETWORKS:
        from prototxt_gen.nets.builder import DataEnds, build

        config = NETWORKS[argument]
        model = build(config, data=DataEnds(mean=config.mean))
        if dialect is model.dialect:
            return model
        return Model(loads(model.dumps(), dialect.message("NetParameter"), argument), dialect)
    model = _parse_net(_bytes_of(argument), display_name(argument), dialect)
    if not (model.net.layer or model.net.layers or model.net.input):
        raise Error("holds no layers of a net", display_name(argument))
    return model


@contextmanager
def errors_of(argument: str) -> Iterator[None]:
    """Put the net that an argument means before the places that errors name in it."""
    where = display_name(argument)
    try:
        yield
    except Error as error:
        if not error.where.startswith(where):
            error.where = f"{where}: {error.where}" if error.where else where
        raise


def _bytes_of(path: str) -> Any:
    if path == "-":
        return read_stream(sys.stdin.buffer)
    if not os.path.exists(path):
        hint = did_you_mean(path, NETWORKS, "prototxt-gen list shows the networks")
        raise Error(f"there is no network and no file '{path}'", hint=hint)
    refuse_state(path)
    return open_bytes(path)


def _parse_net(data: Any, where: str, dialect: Dialect) -> Model:
    """Parse a net from text, or from binary: what has bytes that no text has, and more than a name in it."""
    if is_hdf5(data):
        raise Error("is HDF5: weights, which tell no net", where, "the net's prototxt is wanted here")
    complaint = Error("is neither prototxt text nor a binary net", where)
    if _CONTROL.search(data):
        try:
            return parse_weights(data, dialect, where)
        except NotBinary as error:
            if len(data) > _MAX_ODD_TEXT:
                raise
            complaint = error
    try:
        text = bytes(data).decode()
    except UnicodeDecodeError:
        raise complaint from None
    net = loads(text, dialect.message("NetParameter"), where)
    if not net.IsInitialized():  # which Python's parser lets pass, and Caffe's refuses
        raise Error(f"lacks {', '.join(net.FindInitializationErrors())}, which Caffe requires", where)
    if any(layer.blobs for layer in net.layer) or any(layer.blobs or layer.layer.blobs for layer in net.layers):
        return parse_weights(net.SerializeToString(), dialect, where, checked=False)
    return Model(net, dialect)


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
