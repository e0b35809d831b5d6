"""From a network's configuration to its net, in one of three forms: training, deployment, as published."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Dict, Optional, Tuple, Union

from prototxt_gen.core import graph
from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import Model, read_text
from prototxt_gen.nets.blocks import Blocks
from prototxt_gen.nets.configs import Augmentation, NetConfig, validate
from prototxt_gen.spec import netspec

TRAIN, DEPLOY, PUBLISHED = "train", "deploy", "published"
FORMS = (TRAIN, DEPLOY, PUBLISHED)
TOP5_NEEDS_CLASSES = 6  # top-5 accuracy among five classes is always 1


@dataclass(frozen=True)
class DataEnds:
    """What the data layers of a training net read. ``mean`` is a value per channel, a mean file, or None.

    With an ``augmentation`` they are AugmentedData layers, which only this project's Caffe has; without, stock Data.
    """

    source: str = "train_lmdb"
    test_source: str = "test_lmdb"
    mean: Union[Tuple[float, ...], str, None] = None
    augmentation: Optional[Augmentation] = None


def build(
    config: NetConfig,
    form: str = TRAIN,
    *,
    name: Optional[str] = None,
    input_size: Optional[int] = None,
    batch_size: Optional[int] = None,
    test_batch_size: Optional[int] = None,
    classes: Optional[int] = None,
    data: Optional[DataEnds] = None,
    spec: Any = netspec,
) -> Model:
    """Build a network.

    ``form``: ``train`` has Data layers, fillers, loss and accuracies; ``deploy`` an Input layer and Softmax;
    ``published`` is the authors' own deploy file. ``input_size`` (pixels) is the crop of a training net. Where another
    input size gives another last plane than the network's own, the average pooling becomes global, so that the
    classifier's weights fit.
    ``spec`` is a module with pycaffe's NetSpec interface; pycaffe's own ``caffe.net_spec`` gives the same messages.
    """
    config = validate(config)
    if form == PUBLISHED and config.published_name is None:
        raise Error(f"the authors published no file of {config.name}", hint=f"it is a {config.source}")
    overrides = dict(input_size=input_size, batch_size=batch_size, test_batch_size=test_batch_size, classes=classes)
    native_plane = last_plane(config, config.input_size)
    given = {key: value for key, value in overrides.items() if value is not None}
    config = replace(config, **given)
    plane = last_plane(config, config.input_size)
    window = plane if plane == native_plane else 0

    n = spec.NetSpec()
    blocks = Blocks(config, spec, n, fillers=form == TRAIN, frozen=form == PUBLISHED)
    if form == TRAIN:
        data = data or DataEnds(mean=config.mean)
        image, label = data_layer(config, data, spec, test=False)
        n.label = label
    else:
        batch = batch_size or 1
        image = spec.layers.Input(input_param=dict(shape=dict(dim=[batch, config.channels] + [config.input_size] * 2)))
    x = blocks.add("data", image, config.channels)
    scores = blocks.top(blocks.head(trunk(blocks, config, x), window, config.classes))
    if form == TRAIN:
        add_loss(n, scores, config.classes, spec)
    else:
        n.cls = spec.layers.Softmax(scores)

    net = n.to_proto()
    if form == TRAIN:
        net = with_test_data(net, config, data, spec)
    if form == PUBLISHED:
        net = with_legacy_input(net)
    net.name = name or (config.published_name if form == PUBLISHED else config.name)
    return Model(net)


def trunk(blocks: Blocks, config: NetConfig, data: str) -> str:
    """All between the data and the head: stem, stages, final units."""
    x = blocks.stem(data)
    stages = zip(config.modules, config.mask_levels, config.widths, config.strides)
    for stage, (modules, levels, width, stride) in enumerate(stages):
        x = blocks.residual_unit(f"pre_res_{stage + 1}", x, width, stride)
        for module in range(modules):
            x = blocks.attention_module(f"Attention{chr(ord('A') + stage)}_{module + 1}", x, width, levels)
    final = f"post_res_{len(config.modules) + 1}"
    for unit in range(3):
        x = blocks.residual_unit(f"{final}_{unit + 1}", x, config.widths[-1], config.strides[-1] if unit == 0 else 1)
    return x


def data_layer(config: NetConfig, data: DataEnds, spec: Any, *, test: bool) -> Any:
    """Return the two tops, image and label, of a data layer for one phase. Only training images are augmented."""
    transform: Dict[str, Any] = dict(crop_size=config.input_size)
    if data.augmentation is not None:
        transform.update(_augmentation_fields(config, data.augmentation, spec, test))
    elif not test:
        transform["mirror"] = True
    if isinstance(data.mean, str):
        transform["mean_file"] = data.mean
    elif data.mean:
        if len(data.mean) not in (1, config.channels):
            what = f"a mean of {len(data.mean)} values does not fit an image of {config.channels} channels"
            raise Error(what, hint="give one value, or one per channel: --mean")
        transform["mean_value"] = list(data.mean)
    ends = dict(
        ntop=2,
        include=dict(phase=graph.TEST if test else graph.TRAIN),
        source=data.test_source if test else data.source,
        batch_size=config.test_batch_size if test else config.batch_size,
    )
    if data.augmentation is not None:
        return spec.layers.AugmentedData(**ends, backend=spec.params.AugmentedData.LMDB, **transform)
    return spec.layers.Data(**ends, backend=spec.params.Data.LMDB, transform_param=transform)


def _augmentation_fields(config: NetConfig, one: Augmentation, spec: Any, test: bool) -> Dict[str, Any]:
    """Return the fields of augmented_data_param that say how the images of a phase are cut and changed."""
    if config.channels not in (1, 3):
        what = f"AugmentedData gives images of 1 or 3 channels, and the net wants {config.channels}"
        raise Error(what, hint="leave --augment out")
    fields: Dict[str, Any] = dict(channels=config.channels) if config.channels != 3 else {}
    if test:
        if one.test_short:
            fields["resize_short"] = round(one.test_short * config.input_size)
        return fields
    crops = spec.params.AugmentedData
    if one.pad_px:
        fields.update(crop=crops.PADDED, pad=one.pad_px)
    else:
        fields.update(crop=crops.RANDOM_RESIZED, min_area=one.area[0], max_area=one.area[1],
                      min_aspect=one.aspect[0], max_aspect=one.aspect[1])
    fields["mirror"] = True
    if one.pca_std and config.channels == 3:  # grey images have no colours to change
        fields["pca_std"] = one.pca_std
    return fields


def add_loss(n: Any, scores: Any, classes: int, spec: Any) -> None:
    """Softmax loss, and in TEST the top-1 and top-5 accuracies."""
    n.loss = spec.layers.SoftmaxWithLoss(scores, n.label)
    in_test = dict(phase=graph.TEST)
    n["accuracy/top1"] = spec.layers.Accuracy(scores, n.label, include=in_test)
    if classes >= TOP5_NEEDS_CLASSES:
        n["accuracy/top5"] = spec.layers.Accuracy(scores, n.label, include=in_test, top_k=5)


def read_mean(text: str, channels: int) -> Union[Tuple[float, ...], str, None]:
    """Read what a user gives as mean: ``none``, values with commas between, a file of such values, or a mean file.

    Returns None, one value per channel in the order of the image's channels (blue, green, red), or the file's name.
    """
    if text == "none":
        return None
    if text.endswith(".binaryproto"):
        return text
    values = _numbers(text)
    if values is None:
        values = _numbers(read_text(text))
        if values is None:
            raise Error("holds no mean", text, f"{channels} numbers with commas between are wanted, or a .binaryproto")
    return values


def _numbers(text: str) -> Optional[Tuple[float, ...]]:
    try:
        values = tuple(float(part) for part in text.strip().split(","))
    except ValueError:
        return None
    return values if all(math.isfinite(one) for one in values) else None


def with_test_data(net: Any, config: NetConfig, data: DataEnds, spec: Any) -> Any:
    """Return ``net`` with the TEST data layer after its first: a NetSpec cannot give two layers the same tops."""
    ends = spec.NetSpec()
    ends.data, ends.label = data_layer(config, data, spec, test=True)
    both = type(net)()
    both.layer.append(net.layer[0])
    both.layer.extend(ends.to_proto().layer)
    both.layer.extend(net.layer[1:])
    return both


def with_legacy_input(net: Any) -> Any:
    """Return ``net`` with its Input layer as the older ``input`` and ``input_dim`` fields of the net."""
    first = net.layer[0]
    legacy = type(net)(input=first.top, input_dim=first.input_param.shape[0].dim)
    legacy.layer.extend(net.layer[1:])
    return legacy


def last_plane(config: NetConfig, size: int) -> int:
    """Return height and width of the last plane for an input of ``size`` pixels; Error where a pooling runs dry."""
    plane = _strided(size, config.stem_stride)
    if config.stem_pooling:
        plane = _pooled("the stem's pooling", plane, size)
    for stage, levels in enumerate(config.mask_levels):
        plane = _strided(plane, config.strides[stage])
        inner = plane
        for level in range(levels if config.modules[stage] else 0):
            inner = _pooled(f"pooling {level + 1} in the masks of stage {stage + 1}", inner, size)
    return _strided(plane, config.strides[-1])


def _strided(size: int, stride: int) -> int:
    """Output size of a convolution padded by half its odd kernel."""
    return (size - 1) // stride + 1


def _pooled(which: str, size: int, input_size: int) -> int:
    """Output size of Caffe's 3x3 pooling with stride 2, which rounds up: ceil((size - 3) / 2) + 1."""
    if size < 2:
        raise Error(f"an input of {input_size} pixels is too small: {which} would read a plane of {size}x{size}")
    return size // 2
