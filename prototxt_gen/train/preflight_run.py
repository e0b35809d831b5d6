"""What a training will meet, found out before it starts: memory, labels, tests, snapshots, the disk."""

from __future__ import annotations

import importlib.util
import math
import os
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from prototxt_gen.core import wire
from prototxt_gen.core.data_layers import source_of
from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import layers_in
from prototxt_gen.core.solvers import HISTORY_ARRAYS
from prototxt_gen.spec.infer import NetInfo
from prototxt_gen.train.lmdb_file import inspect_lmdb
from prototxt_gen.train.preflight import LMDB, UsedNet
from prototxt_gen.train.preflight_memory import Place, amount, memory_lines
from prototxt_gen.train.preflight_nets import database_of, look_at

LABELS_LOOKED_AT = 50_000
_LABEL = 5  # Datum's field
_CLASS_LAYERS = ("SoftmaxWithLoss", "Accuracy", "MultinomialLogisticLoss", "InfogainLoss", "HingeLoss")


def facts(
    nets: Sequence[UsedNet], solver: Any, places: Sequence[Place], prefix: str, iteration: int, sharing: str
) -> Iterator[str]:
    """Say what a training will need and meet. Raises Error where it cannot go well."""
    yield from memory_lines(nets, solver, places, sharing)
    for used in nets:
        yield from check_labels(used)
    yield from test_lines(nets[1:], solver)
    check_groups(nets[0], solver)
    yield from disk_lines(nets[0], solver, prefix, iteration)


def check_labels(used: UsedNet) -> Iterator[str]:
    """Say which labels the LMDBs of a net hold. Raises Error for one outside the range of the classifier that reads it.

    At most LABELS_LOOKED_AT records of each are looked at.
    """
    try:
        info = look_at(used)
    except Error:
        return
    for layer in layers_in(used.net, used.state):
        source = database_of(layer)
        if source is None or len(layer.top) < 2:
            continue
        classes, ignored = _classes_read(info, used, layer.top[1])
        if classes is None:
            continue
        if importlib.util.find_spec("lmdb") is None:
            yield f"labels: '{source}' is not looked at without the package lmdb: pip install '.[data]'"
            continue
        seen, records = _labels(source, used.where, layer.name)
        wrong = sorted(label for label in seen if not 0 <= label < classes and label not in ignored)
        part = f"the first {LABELS_LOOKED_AT} of {records}" if records > LABELS_LOOKED_AT else f"all {records}"
        if wrong:
            record = seen[wrong[-1]]
            what = f"layer '{layer.name}': '{source}' holds the label {wrong[-1]} (record '{record}')"
            raise Error(f"{what}, and the classifier has {classes} classes, 0 to {classes - 1}", used.where,
                        "raise its num_output, or write the LMDB anew; Caffe itself would read beyond the blob")
        yield f"labels: {min(seen)} to {max(seen)} in {part} records of '{source}', for {classes} classes"


def test_lines(nets: Sequence[UsedNet], solver: Any) -> Iterator[str]:
    """Say which tests take more batches than go once through the images of their LMDB."""
    for used, batches in zip(nets, solver.test_iter):
        for layer in layers_in(used.net, used.state):
            source = database_of(layer)
            if source is None:
                continue
            records, batch = inspect_lmdb(source).entries, source_of(layer).batch_size
            once = math.ceil(records / batch)
            if batches > once:
                yield (f"note: a test takes {batches} batches of {batch} of the {records} images in '{source}': "
                       f"test_iter: {once} goes through them once")


def _classes_read(info: NetInfo, used: UsedNet, labels: str) -> Tuple[Optional[int], List[int]]:
    """Return the fewest classes of the layers that read a blob of labels, and the labels they ignore."""
    classes: List[int] = []
    ignored: List[int] = []
    shapes = {layer.name: layer.bottom_shapes for layer in info.layers}
    for layer in layers_in(used.net, used.state):
        if layer.type not in _CLASS_LAYERS or len(layer.bottom) < 2 or layer.bottom[1] != labels:
            continue
        shape = shapes.get(layer.name, (None,))[0]
        axis = layer.accuracy_param.axis if layer.type == "Accuracy" else layer.softmax_param.axis
        if shape and -len(shape) <= axis < len(shape):
            classes.append(shape[axis])
        for param in (layer.loss_param, layer.accuracy_param):
            if param.HasField("ignore_label"):
                ignored.append(param.ignore_label)
    return (min(classes) if classes else None), ignored


def _labels(source: str, where: str, layer: str) -> Tuple[Dict[int, str], int]:
    """Return each label with the key of its first record, and how many records there are."""
    import lmdb

    seen: Dict[int, str] = {}
    try:
        with lmdb.open(source, readonly=True, lock=False, readahead=False) as environment:
            with environment.begin(buffers=True) as transaction:
                for number, (key, value) in enumerate(transaction.cursor()):
                    if number == LABELS_LOOKED_AT:
                        break
                    seen.setdefault(_label(value), bytes(key).decode("utf-8", "replace"))
                return seen, transaction.stat()["entries"]
    except (lmdb.Error, wire.Malformed) as error:
        raise Error(f"layer '{layer}' cannot read '{source}': {error}", where, "write the LMDB anew") from None


def _label(datum: Any) -> int:
    label = 0
    for number, kind, _, start, stop in wire.fields(datum, 0, len(datum)):
        if number == _LABEL and kind == wire.VARINT:
            label = wire.signed(wire.varint(datum, start, stop)[0])
    return label


def check_groups(used: UsedNet, solver: Any) -> None:
    """Check that a net can be written as HDF5 where a solver asks for it. Raises Error naming a layer in the way.

    Each layer becomes an HDF5 group of its name, in the order of the net, and one with a '/' lies in the group named
    before it, which must be there then; Caffe aborts otherwise, at the first snapshot.
    """
    if solver.snapshot_format != solver.HDF5:
        return
    try:
        names = [layer.name for layer in look_at(used).layers]
    except Error:
        return
    made = {""}
    for name in names:
        group = name.rpartition("/")[0]
        if group not in made:
            what = f"HDF5 snapshots have no place for layer '{name}': no layer before it is called '{group}'"
            raise Error(what, used.where, "leave snapshot_format at BINARYPROTO, Caffe's default")
        made.add(name)


def disk_lines(net: UsedNet, solver: Any, prefix: str, iteration: int) -> Iterator[str]:
    """Say what the snapshots to come will take beside what is free. Raises Error where not even one has room."""
    try:
        info = look_at(net)
    except Error:
        return
    values = info.learnable + info.statistics
    arrays = HISTORY_ARRAYS.get(solver.type if solver.HasField("type") else "SGD", 1)
    each = 4 * values * (1 + arrays)
    count = math.ceil(max(0, solver.max_iter - iteration) / solver.snapshot) if solver.snapshot else 1
    folder = os.path.abspath(os.path.dirname(prefix))
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    status = os.statvfs(folder)
    if not status.f_blocks:
        return  # no disk, as /proc
    free = status.f_bavail * status.f_frsize
    text = f"{count} of {amount(each)}, {amount(free)} free in '{os.path.dirname(prefix) or '.'}'"
    if each > free:
        raise Error(f"there is no room for a snapshot: {amount(each)} wanted, {amount(free)} free", prefix,
                    "choose another disk for snapshot_prefix, or make room")
    yield f"snapshots: {text}" if count * each <= free else f"warning: snapshots: {text}: room for {free // each}"


def cursor_line(net: UsedNet, iteration: int, iter_size: int, gpus: int, winds_on: bool) -> Iterator[str]:
    """Say which Data layers a resumed training will read otherwise than an uninterrupted one.

    Those of ``caffe train`` begin at the first record; those that are wound on draw anew, beyond the first epoch.
    """
    for layer in layers_in(net.net, net.state):
        if layer.type == "Data" and layer.data_param.backend == LMDB:
            records = inspect_lmdb(layer.data_param.source).entries
            epochs, into = divmod(iteration * iter_size * layer.data_param.batch_size * gpus, records)
            drawn = layer.transform_param.mirror or layer.transform_param.crop_size
            if winds_on and epochs and drawn:
                yield (f"note: layer '{layer.name}' goes on at its record, and draws mirrors and crops anew "
                       "(AugmentedData goes on with its own)")
            elif into and not winds_on:
                yield (f"note: Caffe's Data layer begins at the first record again; the training stood {into} of "
                       f"{records} records into '{layer.data_param.source}' (--engine pycaffe goes on there)")
