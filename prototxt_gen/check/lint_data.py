"""Lint rules on what the data layers read and what they do to it, AugmentedData above all."""

from __future__ import annotations

from typing import Any, Iterator, List, NamedTuple, Optional, Tuple

from prototxt_gen.check.lint import FILE, NET, WARNING, Hit, registry
from prototxt_gen.check.lint_view import NetFile, NetView
from prototxt_gen.core.data_layers import IMAGE_TYPES, SOURCE_FIELDS, source_of, transform_field, transform_of
from prototxt_gen.core.graph import TEST, TRAIN

# AugmentedDataParameter.Crop, and the fields that only one of them reads.
_RANDOM_RESIZED, _PADDED, _CENTER = 0, 1, 2
_CROP_NAMES = {_RANDOM_RESIZED: "RANDOM_RESIZED", _PADDED: "PADDED", _CENTER: "CENTER"}
_SHARES = ("min_area", "max_area", "min_aspect", "max_aspect")
_COLOURS = ("brightness", "contrast", "saturation", "pca_std")
_RANDOM = ("crop", *_SHARES, "mirror", *_COLOURS, "shuffle")
_CUT = ("pad", "resize_short")


class _Reader(NamedTuple):
    """A layer that reads images, in a view."""

    view: NetView
    index: int
    layer: Any

    @property
    def path(self) -> str:
        return self.view.paths[self.index]

    @property
    def source(self) -> str:
        return source_of(self.layer).source


def _readers(view: NetView) -> Iterator[_Reader]:
    for index, layer in enumerate(view.layers):
        if layer.type in IMAGE_TYPES:
            yield _Reader(view, index, layer)


def _pairs(file: NetFile) -> Iterator[Tuple[_Reader, _Reader]]:
    """Yield the data layers of TRAIN and TEST that bring the same blob in, where they are two layers."""
    views = {view.phase: view for view in file.views}
    if TRAIN in views and TEST in views:
        tests = list(_readers(views[TEST]))
        for train in _readers(views[TRAIN]):
            for test in tests:
                if test.path != train.path and set(test.layer.top[:1]) & set(train.layer.top[:1]):
                    yield train, test


@registry.add(
    "PG501", "augmented-data-field", about=NET,
    checks="an AugmentedData layer says what it reads, and its fields lie in their ranges",
    why="Caffe aborts while it builds the net. A share of the area is above 0 and at most 1, an aspect ratio above 0, "
        "the least not above the greatest; a mean is given once, as one value, one for each channel, or a file.",
    mend="Write source, and correct the field that is named.",
    bad="min_area: 8  max_area: 100",
    good="min_area: 0.08  max_area: 1",
)
def augmented_data_field(view: NetView) -> Iterator[Hit]:
    for index, layer in enumerate(view.layers):
        if layer.type == "AugmentedData":
            for field, what, hint in _faults(layer.augmented_data_param):
                path = f"{view.paths[index]}.augmented_data_param"
                yield Hit(f"{path}.{field}", f"{view.label(index)}: {what}", hint, layer.name)


def _faults(param: Any) -> Iterator[Tuple[str, str, str]]:
    """Yield (field, what is wrong with it, hint)."""
    if not param.source:
        yield "source", "it has no source", "write the LMDB's folder, or a list of images with backend: LIST"
    if not 0 < param.max_area <= 1:
        yield "max_area", f"max_area is {param.max_area:g}, and a share of the image is above 0 and at most 1", ""
    elif not 0 < param.min_area <= param.max_area:
        yield "min_area", f"min_area is {param.min_area:g}, not between 0 and max_area {param.max_area:g}", ""
    if not 0 < param.min_aspect <= param.max_aspect:
        what = f"the aspect ratios {param.min_aspect:g} to {param.max_aspect:g} are no range above 0"
        yield "min_aspect" if param.HasField("min_aspect") else "max_aspect", what, "width / height: 0.75 to 1.3333334"
    for field in _COLOURS:
        if getattr(param, field) < 0:
            yield field, f"{field} is {getattr(param, field):g}, below 0", "0 leaves the colours as they are"
    for field in ("saturation", "pca_std"):
        if param.channels == 1 and getattr(param, field):
            yield field, f"{field} changes colours, and channels is 1", "remove it"
    if not param.prefetch:
        yield "prefetch", "prefetch is 0, and at least one batch is made ahead", ""
    means = len(param.mean_value)
    if means and param.mean_file:
        yield "mean_file", "the mean is given twice, by mean_file and by mean_value", "remove one of them"
    if means not in (0, 1, param.channels):
        what = f"{means} values of mean_value for {param.channels} channels"
        yield "mean_value", what, "give one, or one per channel"


@registry.add(
    "PG502", "crop-over-short-side", about=NET, severity=WARNING,
    checks="AugmentedData does not crop more than resize_short and pad leave",
    why="An image that is too small for its crop is enlarged to it: resize_short then has no effect, and a test sees "
        "the whole image squeezed into the crop, not its middle.",
    mend="Write a resize_short above crop_size: 256 for 224 is usual.",
    bad="crop_size: 224  resize_short: 192",
    good="crop_size: 224  resize_short: 256",
)
def crop_over_short_side(view: NetView) -> Iterator[Hit]:
    for index, layer in enumerate(view.layers):
        param = layer.augmented_data_param
        if layer.type != "AugmentedData" or not param.resize_short:
            continue
        if view.phase == TRAIN and param.crop == _RANDOM_RESIZED:
            continue
        short = param.resize_short + 2 * param.pad
        if param.crop_size > short:
            what = f"crops {param.crop_size} out of images with a short side of {short}"
            hint = "write a larger resize_short, or a smaller crop_size"
            path = f"{view.paths[index]}.augmented_data_param.crop_size"
            yield Hit(path, f"{view.label(index)} {what}", hint, layer.name)


@registry.add(
    "PG503", "idle-augmentation", about=FILE, severity=WARNING,
    checks="an AugmentedData layer has no augmentation that it never makes",
    why="In phase TEST nothing is random: the image is resized and its middle cropped, whatever crop, mirror and the "
        "colours say. In TRAIN each kind of crop reads fields of its own. What is written beside them has no effect; "
        "the layer for TRAIN may be the one that lacks it.",
    mend="Move the field to the layer for TRAIN, choose the crop that reads it, or remove it.",
    bad="include { phase: TEST } augmented_data_param { mirror: true",
    good="include { phase: TRAIN } augmented_data_param { mirror: true",
)
def idle_augmentation(file: NetFile) -> Iterator[Hit]:
    told = set()
    for view in file.views:
        for index, layer in enumerate(view.layers):
            path = view.paths[index]
            if layer.type == "AugmentedData" and path not in told:
                told.add(path)
                for field, reason in _idle_fields(layer):
                    message = f"{view.label(index)} has {field}, {reason}"
                    yield Hit(f"{path}.augmented_data_param.{field}", message, "", layer.name)


def _idle_fields(layer: Any) -> Iterator[Tuple[str, str]]:
    """Yield (field, why it has no effect)."""
    param, phase = layer.augmented_data_param, _only_phase(layer)
    idle: List[Tuple[Tuple[str, ...], str]] = []
    if phase == TEST:
        idle.append((_RANDOM, "and is for TEST only, where nothing is random"))
    else:
        crop = f"which crop: {_CROP_NAMES[param.crop]} does not read"
        if param.crop != _RANDOM_RESIZED:
            idle.append((_SHARES, crop))
        elif phase == TRAIN:
            idle.append((_CUT, crop))
    for fields, reason in idle:
        for field in fields:
            harmless = field == "crop" and param.crop == _CENTER  # what TEST does anyway
            if param.HasField(field) and getattr(param, field) and not harmless:
                yield field, reason


def _only_phase(layer: Any) -> Optional[int]:
    """Return the phase that a layer's rules keep it to, None where it may be in both."""
    kept = {rule.phase if rule.HasField("phase") else None for rule in layer.include}
    if len(kept) == 1:
        return kept.pop()
    for rule in layer.exclude:
        if [field.name for field, _ in rule.ListFields()] == ["phase"]:
            return TEST if rule.phase == TRAIN else TRAIN
    return None


@registry.add(
    "PG504", "other-values-in-test", about=FILE, severity=WARNING,
    checks="the data layers of TRAIN and TEST have the same mean and scale",
    why="Tested on values that are shifted or scaled otherwise, a net is blamed for what its data layer did: the "
        "training loss falls, and the accuracy stays low.",
    mend="Write the same mean_value or mean_file, and the same scale, in both.",
    bad="include { phase: TEST } transform_param { mean_value: 128 }",
    good="include { phase: TEST } transform_param { mean_value: 128 scale: 0.0078125 }",
)
def other_values_in_test(file: NetFile) -> Iterator[Hit]:
    for train, test in _pairs(file):
        ours, theirs = _treatment(transform_of(test.layer)), _treatment(transform_of(train.layer))
        if ours != theirs:
            message = f"{test.view.label(test.index)} has {ours} in TEST, and {theirs} in TRAIN"
            hint = "use the same mean and scale in both"
            yield Hit(f"{test.path}.{transform_field(test.layer)}", message, hint, test.layer.name)


def _treatment(values: Any) -> str:
    means = list(values.mean_value)
    if len(set(means)) == 1:
        means = means[:1]  # one value serves all channels
    mean = "mean " + ",".join(f"{one:g}" for one in means) if any(means) else "no mean"
    return f"{f'mean_file {values.mean_file!r}' if values.mean_file else mean} and scale {values.scale:g}"


@registry.add(
    "PG505", "tests-on-training-images", about=FILE, severity=WARNING,
    checks="the data layers of TRAIN and TEST read different sources",
    why="An accuracy on images that the net was trained on tells how well it knows them by heart.",
    mend="Give the layer of phase TEST a source of its own, with images that the other has not.",
    bad="include { phase: TEST } data_param { source: \"train_lmdb\"",
    good="include { phase: TEST } data_param { source: \"test_lmdb\"",
)
def tests_on_training_images(file: NetFile) -> Iterator[Hit]:
    for train, test in _pairs(file):
        if test.source and test.source == train.source:
            message = f"{test.view.label(test.index)} tests on '{test.source}', the images of the training"
            hint = "read other images in phase TEST"
            yield Hit(f"{test.path}.{SOURCE_FIELDS[test.layer.type]}.source", message, hint, test.layer.name)
