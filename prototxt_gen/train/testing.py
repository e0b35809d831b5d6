"""How often the weights of a net are right: top-1, top-5, and what is taken for what.

An image of label y with scores s, one for each class, counts as right among the first k as Caffe's Accuracy layer has
it, where ties are held against the net:

    rank(s, y) = number of classes j other than y with s_j >= s_y,    right among the first k: rank < k

Scores are what the last Softmax reads, since its probabilities of unlike scores may be alike, or else the net's last
output. With the batch size of the net's own TEST layer the numbers equal those of ``caffe test`` exactly, unless
AugmentedData resizes there: its interpolation is another than the one here.
"""

from __future__ import annotations

import queue
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from google.protobuf.message import DecodeError

from prototxt_gen.core.caffemodel import open_bytes
from prototxt_gen.core.caffemodel_write import write_weights
from prototxt_gen.core.data_layers import LABELLED_TYPES, source_of, transform_of
from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import TEST, Graph, layers_in, net_state
from prototxt_gen.core.io import Model
from prototxt_gen.passes.base import registry
from prototxt_gen.passes.deploy import is_measure, is_source
from prototxt_gen.spec.infer import NetInfo, format_shape, infer
from prototxt_gen.train.caffe import Caffe
from prototxt_gen.train.caffe_child import Child, check_device
from prototxt_gen.train.testing_images import Batch, Crop, Source, open_source, read_batches, stored_size

CHILD = "prototxt_gen.train.testing_child"
BATCH_SIZE = 16  # where the net tells none
DEFAULT_TOP = (1, 5)
FOLDER_SIZE_PX = 64  # from this input size on, images of a folder are resized to 8/7 of it: 224 to 256, 320 to 366

# Called with what is done, and how many of how many images are.
Progress = Callable[[str, int, int], Any]


@dataclass(frozen=True)
class Job:
    """A test that has passed all checks: a deploy net with weights, of a batch, and how its images are made."""

    model: Model
    input: str
    scores: str
    classes: int
    batch_size: int
    source: Source
    crop: Crop
    top: Tuple[int, ...]
    limit: Optional[int]
    where: str


@dataclass
class Score:
    """What a test found, by label: the images, how many were right among the first k, and what wrong ones became."""

    images: Counter = field(default_factory=Counter)
    right: Dict[int, Counter] = field(default_factory=dict)
    taken: Dict[int, Counter] = field(default_factory=dict)  # label -> class of the highest score but its own

    def add(self, label: int, ranks: Dict[int, bool], taken_for: Optional[int]) -> None:
        """Count one image; ``taken_for`` is the class it was taken for, None where it was right."""
        self.images[label] += 1
        for k, right in ranks.items():
            self.right.setdefault(k, Counter())[label] += right
        if taken_for is not None:
            self.taken.setdefault(label, Counter())[taken_for] += 1


def plan(
    model: Model, caffe: Caffe, *, source: Optional[str] = None, size: Optional[int] = None,
    resize_short: Optional[int] = None, mean: Any = None, scale: Optional[float] = None,
    batch_size: Optional[int] = None, top: Optional[Sequence[int]] = None, limit: Optional[int] = None, where: str = "",
) -> Job:
    """Check a net with its weights and settle how it is tested; what is None is taken from the net's TEST data layer.

    ``mean`` is ``()`` for none, values, a mean file's name, or None. Raises Error for what cannot be tested.
    """
    layer = _image_layer(model.net)
    shown, stored = (None, None) if layer is None else (transform_of(layer), source_of(layer))
    if source is None:
        source = stored.source if stored is not None else ""
        if not source:
            raise Error("tells no images to test with", where, "--source names an LMDB, a folder or a list")
    images = open_source(source)
    own_size = shown.crop_size if shown is not None else 0
    deployed = _deployed(model, layer, images, own_size)
    name, shape = _input_of(deployed, where)
    if size is not None and shape[2:] != (size, size):
        deployed = _pass("resize-input", deployed, input_shapes={name: (shape[0], shape[1], size, size)})
        shape = (*shape[:2], size, size)
    batch_size = batch_size or (stored.batch_size if stored is not None else 0) or BATCH_SIZE
    deployed = _pass("batch", deployed, batch_size=batch_size)
    info = infer(deployed.net, TEST, where=where)
    _check_layers(info, deployed, caffe, where)
    scores, classes = _scores_of(deployed, info, where)
    for k in top or ():
        if k > classes:
            raise Error(f"--top {k} asks for more than the net's {classes} classes", where)
    if resize_short is None and hasattr(stored, "resize_short"):
        resize_short = stored.resize_short or None
    elif resize_short is None and not images.stored and min(shape[2:]) >= FOLDER_SIZE_PX:
        resize_short = round(min(shape[2:]) * 8 / 7)
    mean = _mean(shown, mean, shape[1], where)
    scale = (shown.scale if shown is not None else 1.0) if scale is None else scale
    crop = Crop(tuple(shape[1:]), resize_short, mean, scale)
    counted = tuple(top) if top else tuple(k for k in DEFAULT_TOP if k <= classes)
    return Job(deployed, name, scores, classes, batch_size, images, crop, counted, limit, where)


def _image_layer(net: Any) -> Any:
    """Return the data layer of images that the net has in TEST, None where it has none."""
    layers = layers_in(net, net_state(TEST, net))
    return next((layer for layer in layers if layer.type in LABELLED_TYPES), None)


def _deployed(model: Model, layer: Any, images: Source, own_size: int) -> Model:
    """Return the net as it is used: one that trains without its ends."""
    if not any(is_source(one) or is_measure(one) for one in model.net.layer):
        return model
    given = {}
    if layer is not None and not own_size:
        given = {layer.top[0]: (1, *stored_size(images))}  # as Caffe's Data layer without a crop has it
    return _pass("train-to-deploy", model, input_shapes=given)


def _pass(name: str, model: Model, **options: Any) -> Model:
    return registry.find(name)(model, **options).model


def _input_of(model: Model, where: str) -> Tuple[str, Tuple[int, ...]]:
    """Return the blob that takes images, and its shape (N, C, H, W)."""
    layers = infer(model.net, TEST, where=where).layers
    inputs = [pair for one in layers if one.type == "Input" for pair in zip(one.tops, one.top_shapes)]
    if len(inputs) != 1 or inputs[0][1] is None or len(inputs[0][1]) != 4:
        found = ", ".join(f"'{name}' {format_shape(shape or ())}" for name, shape in inputs) or "none"
        raise Error(f"takes no images: its inputs are {found}", where, "one input of (N, C, H, W) is wanted")
    return inputs[0]


def _check_layers(info: NetInfo, model: Model, caffe: Caffe, where: str) -> None:
    lacking = [one.name for one in info.layers if one.params and one.name not in model.blobs]
    if lacking:
        more = f" and {len(lacking) - 1} more layers" if len(lacking) > 1 else ""
        raise Error(f"the weights hold nothing for layer '{lacking[0]}'{more}", where, "are they of this net?")
    unknown = [one for one in info.layers if one.type not in caffe.layers]
    if unknown and caffe.layers:
        raise Error(f"layer '{unknown[0].name}' has the type '{unknown[0].type}', which this Caffe lacks", where)


def _scores_of(model: Model, info: NetInfo, where: str) -> Tuple[str, int]:
    """Return the blob of scores and the number of classes."""
    graph = Graph(layers_in(model.net, net_state(TEST, model.net)))
    outputs = [one for one in graph.versions() if not one.readers and _classes(info.blobs[one.blob]) > 1]
    if not outputs:
        raise Error("tells no classes: no output of it is (N, K)", where)
    last = outputs[-1]
    if graph.layers[last.maker].type == "Softmax":
        read = graph.reads[last.maker][0]
        if read is not None and graph.newest[read.blob] is read:
            last = read
    return last.blob, _classes(info.blobs[last.blob])


def _classes(shape: Any) -> int:
    """Return K of a shape (N, K) or (N, K, 1, 1), else 0."""
    return shape[1] if shape is not None and len(shape) > 1 and all(size == 1 for size in shape[2:]) else 0


def _mean(shown: Any, given: Any, channels: int, where: str) -> Any:
    """Return the mean as the crop takes it: None, values, or the array (C, H, W) in a mean file."""
    if given is None and shown is not None:
        given = shown.mean_file or tuple(shown.mean_value)
    if not given:
        return None
    if isinstance(given, str):
        return _read_mean_file(given)
    if len(given) not in (1, channels):
        raise Error(f"the mean has {len(given)} values, and the images have {channels} channels", where)
    return given


def _read_mean_file(path: str) -> Any:
    """Return the array (C, H, W) in a binaryproto."""
    import numpy as np

    try:
        blob = DEFAULT_DIALECT.message("BlobProto").FromString(bytes(open_bytes(path)))
        shape = tuple(blob.shape.dim) or (blob.num, blob.channels, blob.height, blob.width)
        return np.array(blob.data or blob.double_data, np.float32).reshape(shape[-3:])
    except (DecodeError, ValueError):
        hint = "a BlobProto of (1, C, H, W) is wanted, as Caffe's compute_image_mean writes it"
        raise Error("is no mean file", path, hint) from None


# ---- The run -------------------------------------------------------------------------------------------------------


def run(
    job: Job, caffe: Caffe, gpu: Optional[int] = None, progress: Progress = lambda what, done, total: None
) -> Score:
    """Run the test in a child process. Raises Error for images that cannot be tested with, CaffeError for Caffe's."""
    check_device(caffe, gpu)
    total = min(job.source.count, job.limit or job.source.count)
    score, done = Score(), 0
    with tempfile.TemporaryDirectory(prefix="prototxt-gen-") as folder:
        place = Path(folder)
        (place / "net.prototxt").write_text(job.model.dumps())
        write_weights(str(place / "weights.caffemodel"), job.model)
        settings = {"input": job.input, "scores": job.scores, "gpu": gpu}
        with Child(CHILD, place, settings, caffe, job.where) as child:
            for batch, scores in _scored(job, child):
                _count(score, job, batch, scores)
                done += len(batch.labels)
                progress("testing", done, total)
    return score


def _scored(job: Job, child: Child) -> Iterator[Tuple[Batch, Any]]:
    """Yield each batch with its scores (n, K), while the next ones are made and written to the child."""
    import numpy as np

    sent: Any = queue.Queue()

    def feed() -> None:
        try:
            for batch in read_batches(job.source, job.crop, job.batch_size, job.limit):
                sent.put(batch._replace(images=None))
                child.stdin.write(batch.images)
                child.stdin.flush()
            sent.put(None)
        except BrokenPipeError:
            pass  # who reads the scores meets their end
        except BaseException as error:
            sent.put(error)

    threading.Thread(target=feed, daemon=True).start()
    size = job.batch_size * job.classes * 4
    while True:
        batch = sent.get()
        if batch is None:
            return
        if isinstance(batch, BaseException):
            raise batch
        data = child.results.read(size)
        if len(data) < size:
            raise child.failure()
        yield batch, np.frombuffer(data, np.float32).reshape(job.batch_size, job.classes)[:len(batch.labels)]


def _count(score: Score, job: Job, batch: Batch, scores: Any) -> None:
    import numpy as np

    for name, label, row in zip(batch.names, batch.labels, scores):
        if not 0 <= label < job.classes:
            what = f"image '{name}' has the label {label}, and the net tells classes 0 to {job.classes - 1}"
            raise Error(what, job.source.path, "these images are not those that the net was trained for")
        if np.isnan(row).any():
            raise Error(f"the scores of image '{name}' are no numbers (NaN)", job.where, "the training has diverged")
        rank = int((row >= row[label]).sum()) - 1
        others = np.delete(row, label)
        best = int(others.argmax())
        score.add(label, {k: rank < k for k in job.top}, None if rank < 1 else best + (best >= label))


def worst_classes(score: Score) -> List[int]:
    """Return the labels that occur, those with the smallest share right at the first guess first."""
    wrong = {label: sum(taken.values()) for label, taken in score.taken.items()}
    return sorted(score.images, key=lambda label: (-wrong.get(label, 0) / score.images[label], label))
