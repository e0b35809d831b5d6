"""What a training will need and meet, found out before it starts: memory, labels, disk.

Memory is what ``spec.memory`` says of the training net, with the activations of the test nets, which live beside it;
on the CPU without what is never written. It grows with the batch in a straight line, so that two batch sizes tell the
largest that fits. CUDA and its libraries take some 0.5 GiB more of a GPU.
"""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from prototxt_gen.core import wire
from prototxt_gen.core.data_layers import source_of
from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import layers_in
from prototxt_gen.core.solvers import HISTORY_ARRAYS
from prototxt_gen.core.upgrade import upgrade_net
from prototxt_gen.spec.infer import NetInfo, Shape, infer
from prototxt_gen.spec.lean import LEAN, PLAIN, SHARED, SHARING
from prototxt_gen.spec.memory import memory, with_batch
from prototxt_gen.spec.rules import CAFFE, GPU, OWN
from prototxt_gen.train.caffe import Caffe
from prototxt_gen.train.lmdb_file import inspect_lmdb
from prototxt_gen.train.preflight import LMDB, UsedNet
from prototxt_gen.train.run_skip import AUGMENTED

MEMORY_VARIABLE = "PROTOTXT_GEN_MEMORY"  # what our Caffe reads
LABELS_LOOKED_AT = 50_000
_LABEL = 5  # Datum's field
_CLASS_LAYERS = ("SoftmaxWithLoss", "Accuracy", "MultinomialLogisticLoss", "InfogainLoss", "HingeLoss")


class Place(NamedTuple):
    """Memory that a training will use: of a GPU by its number, or the computer's. ``free`` in bytes.

    ``runs`` tells how nets run there: ``rules.GPU``, OWN or CAFFE.
    """

    name: str
    free: int
    runs: str


@dataclass(frozen=True)
class Need:
    """Bytes of memory for a training step with batch b: ``fixed`` + b ``per_image``. ``batch`` is the net's own b."""

    batch: int
    fixed: int
    per_image: int

    @property
    def total(self) -> int:
        """Bytes at the net's own batch."""
        return self.fixed + self.batch * self.per_image

    def largest_batch(self, free: int) -> int:
        """Return the largest batch that fits, 0 where none does."""
        return max(0, (free - self.fixed) // max(self.per_image, 1))


def gpu_places(gpu: str) -> List[Place]:
    """Return the GPUs that 'all' or ids such as '0,1' name, with their free memory; none without nvidia-smi."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=index,memory.free", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, errors="replace")
    places = []
    for line in done.stdout.splitlines() if done.returncode == 0 else []:
        index, _, mebibytes = line.partition(",")
        if mebibytes.strip().isdigit() and (gpu == "all" or index.strip() in gpu.split(",")):
            places.append(Place(f"GPU {index.strip()}", int(mebibytes) << 20, GPU))
    return places


def computer(caffe: Caffe) -> Place:
    """Return the computer's memory that a process of a Caffe can have, a container's limit included."""
    with open("/proc/meminfo", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    free = int(fields["MemAvailable"].split()[0]) << 10
    limit, used = (_number(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit is not None and used is not None:
        free = min(free, max(0, limit - used))
    return Place("this computer", free, OWN if caffe.runs_own_engines else CAFFE)


def _number(path: str) -> Optional[int]:
    try:
        with open(path, encoding="ascii") as file:
            text = file.read().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def image_shapes(used: UsedNet) -> Dict[str, Shape]:
    """Return the shapes that the LMDBs of a net give its data blobs, as far as their first image tells."""
    shapes = {}
    for layer in layers_in(used.net, used.state):
        if layer.type == "Data" and layer.top and layer.data_param.backend == LMDB:
            datum = DEFAULT_DIALECT.message("Datum").FromString(inspect_lmdb(layer.data_param.source).first_value)
            crop = layer.transform_param.crop_size
            if datum.channels and datum.height:
                size = (crop, crop) if crop else (datum.height, datum.width)
                shapes[layer.top[0]] = (layer.data_param.batch_size, datum.channels, *size)
    return shapes


def database_of(layer: Any) -> Optional[str]:
    """Return the LMDB that a layer reads its images from."""
    if layer.type == "Data" and layer.data_param.backend == LMDB:
        return layer.data_param.source
    if layer.type == AUGMENTED and layer.augmented_data_param.backend == layer.augmented_data_param.LMDB:
        return layer.augmented_data_param.source
    return None


def look_at(used: UsedNet, batch: Optional[int] = None) -> NetInfo:
    """Infer a net as the solver uses it, with another batch where one is given."""
    net = upgrade_net(used.net).message
    shapes = image_shapes(used)
    if batch is not None:
        net = with_batch(net, batch)
        shapes = {name: (batch, *shape[1:]) for name, shape in shapes.items()}
    state = used.state
    return infer(net, state.phase, given=shapes, stages=list(state.stage), level=state.level, where=used.where)


def memory_asked(asked: Optional[str], recorded: Optional[str]) -> Optional[str]:
    """Return how blobs are to share memory: as asked for, else as the environment says, else as a run was started."""
    word = os.environ.get(MEMORY_VARIABLE) or None
    if word is not None and word not in SHARING:
        raise Error(f"{MEMORY_VARIABLE} is '{word}'", hint=f"it may be {', '.join(SHARING[:-1])} or {SHARING[-1]}")
    return asked or word or recorded


def memory_word(caffe: Caffe, asked: Optional[str], on_gpu: bool) -> str:
    """Return how blobs share memory where ``asked`` may leave it open: on the CPU they do, on a GPU they do not.

    Sharing changes no result and takes no time; on a GPU it has not been tried. Raises Error for a Caffe that cannot.
    """
    can = caffe.is_ours
    if asked is None:
        return SHARED if can and not on_gpu else PLAIN
    if asked != PLAIN and not can:
        raise Error(f"this Caffe knows no --memory {asked}", str(caffe.binary),
                    "prototxt-gen caffe build builds one that does")
    return asked


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


def need(nets: Sequence[UsedNet], solver: Any, runs: str, sharing: str = PLAIN) -> Need:
    """Return what a training needs where nets run as ``Place.runs`` tells. Raises Error where that is unknown.

    ``nets`` are the training net and the test nets.
    """
    kind = solver.type if solver.type in HISTORY_ARRAYS else "SGD"
    one, two = (memory(look_at(nets[0], batch), kind, sharing).held(runs) for batch in (1, 2))
    tests = [memory(look_at(net), kind, sharing) for net in nets[1:]]
    beside = sum(each.activations + each.shared + each.prefetch + each.buffers - each.spared.get(runs, 0)
                 for each in tests)
    return Need(train_batch(nets[0]), 2 * one - two + beside, two - one)


def train_batch(used: UsedNet) -> int:
    """Return the images in a batch of a net: the first axis of the first blob that it makes from nothing."""
    for layer in look_at(used).layers:
        if not layer.bottoms and layer.top_shapes and layer.top_shapes[0]:
            return layer.top_shapes[0][0]
    raise Error("nothing tells how many images are in a batch", used.where)


def memory_lines(
    nets: Sequence[UsedNet], solver: Any, places: Sequence[Place], sharing: str = PLAIN
) -> Iterator[str]:
    """Say what a training needs beside what is free, and the largest batch that fits."""
    for place in places:
        try:
            wanted = need(nets, solver, place.runs, sharing)
        except Error as error:
            yield f"memory: not known: {error.what}"
            return
        fits = wanted.largest_batch(place.free)
        text = f"{amount(wanted.total)} of {amount(place.free)} free on {place.name}; batches of up to {fits} fit"
        if wanted.batch <= fits:
            yield f"memory: {text}"
            continue
        images = wanted.batch * max(solver.iter_size, 1)
        smaller = max((size for size in range(1, fits + 1) if images % size == 0), default=0)
        advice = f"; batch_size: {smaller} with iter_size: {images // smaller} sees as many images an update"
        lean = need(nets, solver, place.runs, LEAN).total
        other = f"; --memory lean needs {amount(lean)}" if sharing != LEAN and lean <= place.free else ""
        yield f"warning: memory: batch {wanted.batch} needs {text}{advice if smaller else ''}{other}"


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


def amount(size: int) -> str:
    """Return bytes as people read them."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size / 1024:.1f} KiB"


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
