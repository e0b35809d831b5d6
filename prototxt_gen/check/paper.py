"""Is a net the one the paper prints? Table 2 of arXiv 1704.06904 row by row, and the published files layer by layer.

A figure that the paper prints and the authors' own file does not meet is a deviation of the publication: it is shown
with both numbers. Whatever differs from the published file as well is a failure.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Dict, List, Optional, Tuple

from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import TEST
from prototxt_gen.nets.builder import DEPLOY, build
from prototxt_gen.nets.configs import NETWORKS, NetConfig
from prototxt_gen.spec.infer import LayerInfo, NetInfo, format_shape, infer

OK, DEVIATES, FAIL = "ok", "deviates (published file)", "FAIL"
INPUT_SIZE_PX = 224
# What stands before and after the network proper, and differs between training and deployment.
END_TYPES = {"Input", "AugmentedData", "Data", "ImageData", "HDF5Data", "MemoryData", "DummyData", "Softmax",
             "SoftmaxWithLoss", "Accuracy"}
COUNTED_TYPES = ("Convolution", "BN", "ReLU", "Eltwise", "Pooling", "Interp", "Sigmoid", "InnerProduct")


@dataclass(frozen=True)
class Printed:
    """What the paper prints of one network, and what the authors' file gives, parameters with BN's four blobs."""

    parameters: Optional[str]  # millions
    macs: Optional[str]  # thousand millions; the paper's 'FLOPs' are multiply-adds
    depth: int
    file_parameters: int
    file_macs: int
    file_layers: Tuple[int, ...]  # by type, in the order of COUNTED_TYPES


PRINTED = {
    "attention56": Printed("31.9", "6.2", 56, 31_883_432, 6_270_836_736, (110, 107, 107, 42, 8, 6, 3, 1)),
    "attention92": Printed("51.3", "10.4", 92, 52_599_976, 10_533_789_696, (179, 176, 176, 70, 12, 10, 6, 1)),
    "attentionnext56": Printed("31.9", "6.3", 56, 31_417_256, 6_419_106_816, (110, 107, 103, 42, 8, 6, 3, 1)),
    "attentionnext92": Printed(None, None, 92, 52_274_088, 10_704_337_920, (179, 173, 169, 70, 12, 10, 6, 1)),
}


@dataclass(frozen=True)
class Row:
    """One comparison: what the paper prints ('' where it prints nothing), what the net has, and the verdict."""

    what: str
    paper: str
    net: str
    verdict: str


def which_network(net: Any, given: Optional[str], where: str) -> str:
    """Return which of the four networks a net means to be: the one given, or the one of its name."""
    if given:
        return given
    for name in PRINTED:
        config = NETWORKS[name]
        if net.name.lower() in (config.name.lower(), (config.published_name or "").lower(), name):
            return name
    what = f"the net's name '{net.name}' is none of the paper's networks"
    raise Error(what, where, f"say which it means to be: --as {'|'.join(PRINTED)}")


def check_paper(net: Any, network: str, where: str = "") -> List[Row]:
    """Compare a net with the paper and the published file. It is looked at in TEST, with one image of 224x224."""
    config, printed = NETWORKS[network], PRINTED[network]
    info = _at_224(net, where)
    return [
        *_stage_rows(info, config),
        *_count_rows(info, printed),
        _depth_row(info, printed),
        *_total_rows(info, printed),
        _layer_row(info, _reference(network)),
    ]


@lru_cache(maxsize=None)
def _reference(network: str) -> Dict[str, Tuple[Any, ...]]:
    """Return the layers of the published network as ``_signatures`` has them."""
    return _signatures(_at_224(build(NETWORKS[network], DEPLOY).net, network))


def _at_224(net: Any, where: str) -> NetInfo:
    """Infer a net for one image of 224x224, whatever its own input is."""
    copy = type(net)()
    copy.CopyFrom(net)
    shape = (1, 3, INPUT_SIZE_PX, INPUT_SIZE_PX)
    for layer in copy.layer:
        if layer.type == "Input":
            for blob in layer.input_param.shape:
                if len(blob.dim) == 4:
                    blob.dim[:] = shape
        elif layer.type in END_TYPES and layer.HasField("data_param"):
            layer.data_param.batch_size = 1
            layer.transform_param.crop_size = INPUT_SIZE_PX
        elif layer.type == "AugmentedData":
            layer.augmented_data_param.batch_size = 1
            layer.augmented_data_param.crop_size = INPUT_SIZE_PX
    given = {name: shape for name in copy.input}
    return infer(copy, TEST, given=given, where=where)


def _stage_rows(info: NetInfo, config: NetConfig) -> List[Row]:
    """Table 2, top to bottom: the plane each stage works on, its units and widths, its modules and their masks."""
    layers = {layer.name: layer for layer in info.layers if not layer.inserted}
    planes = (112, 56, 56, 28, 14, 7, 1)
    rows = [
        _row("conv1", "7x7, 64, stride 2", _window(layers, "conv1", convolution=True)),
        _row("  output", "112x112", _plane(info, "conv1")),
        _row("max pool", "3x3, stride 2", _window(layers, "pool1_3x3_s2")),
        _row("  output", "56x56", _plane(info, "pool1_3x3_s2")),
    ]
    for stage, width in enumerate(config.widths[:-1]):
        letter, plane = chr(ord("A") + stage), planes[2 + stage]
        rows += [
            _row(f"residual unit {stage + 1}", _units_text(config, width, 1), _units(layers, f"pre_res_{stage + 1}")),
            _row("  output", f"{plane}x{plane}", _plane(info, f"pre_res_{stage + 1}")),
            _row(f"attention modules {letter}", f"{config.modules[stage]}", f"{_modules(layers, letter)}"),
        ]
        for module in range(config.modules[stage]):
            rows += _module_rows(info, layers, f"Attention{letter}_{module + 1}", config, stage, plane)
    rows += [
        _row("residual units 4", _units_text(config, config.widths[-1], 3), _units(layers, "post_res_4")),
        _row("  output", "7x7", _plane(info, "post_res_4_3")),
        _row("average pool", "7x7, stride 1", _average_pool(layers)),
        _row("  output", "1x1", _plane(info, "ave_pool")),
    ]
    return rows


def _module_rows(
    info: NetInfo, layers: Dict[str, LayerInfo], name: str, config: NetConfig, stage: int, plane: int
) -> List[Row]:
    mask = Counter(layer.type for one, layer in layers.items() if one.startswith(f"{name}/mask/"))
    trunk = {one.split("/")[2] for one in layers if one.startswith(f"{name}/trunk/")}
    levels = config.mask_levels[stage]
    return [
        _row(f"  {name}", f"{plane}x{plane}", _plane(info, name)),
        _row("    trunk units", str(config.pre_units + config.trunk_units), str(len(trunk))),
        _row("    mask levels down, up", f"{levels}, {levels}", f"{mask['Pooling']}, {mask['Interp']}"),
    ]


def _count_rows(info: NetInfo, printed: Printed) -> List[Row]:
    found = Counter(layer.type for layer in info.layers if not layer.inserted)
    return [_row(f"{name} layers", "", str(found[name]), file=str(expected))
            for name, expected in zip(COUNTED_TYPES, printed.file_layers)]


def _depth_row(info: NetInfo, printed: Printed) -> Row:
    """Trunk depth: Convolution and InnerProduct layers outside masks and projections."""
    weighted = (layer.name for layer in info.layers if layer.type in ("Convolution", "InnerProduct"))
    depth = sum("/mask/" not in name and "branch2" not in name for name in weighted)
    return _row("trunk depth", str(printed.depth), str(depth))


def _total_rows(info: NetInfo, printed: Printed) -> List[Row]:
    parameters = info.learnable + info.statistics
    return [
        _figure_row("parameters, BN's four blobs in", printed.parameters, "M", 1e6, parameters,
                    printed.file_parameters),
        _figure_row("multiply-adds", printed.macs, "G", 1e9, info.macs, printed.file_macs),
    ]


def _figure_row(what: str, paper: Optional[str], unit: str, scale: float, value: int, file_value: int) -> Row:
    """Compare at the precision the paper prints, and exactly with the published file."""
    printed = f"{paper} {unit}" if paper else ""
    decimals = len(paper.partition(".")[2]) if paper else 0
    met = paper is None or f"{value / scale:.{decimals}f}" == paper
    verdict = FAIL if value != file_value else OK if met else DEVIATES
    if verdict == FAIL:
        return Row(what, printed, f"{value}, the published file has {file_value}", FAIL)
    return Row(what, printed, f"{value / scale:.2f} {unit} ({value})", verdict)


def _layer_row(info: NetInfo, expected: Dict[str, Tuple[Any, ...]]) -> Row:
    """Every layer of the network proper against the published one: type, bottoms, shapes, what it computes."""
    found = _signatures(info)
    wrong = [name for name in expected if found.get(name) != expected[name]]
    wrong += [name for name in found if name not in expected]
    if not wrong:
        return Row("layers as published", "", f"all {len(expected)}", OK)
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return Row("layers as published", "", f"not {', '.join(wrong[:3])}{more}", FAIL)


def _signatures(info: NetInfo) -> Dict[str, Tuple[Any, ...]]:
    """Return what each layer computes, by name: fields at their defaults and learning settings left out."""
    source = {top: layer.bottoms[0] for layer in info.layers if layer.inserted for top in layer.tops}
    found = {}
    for layer in info.layers:
        if layer.inserted or layer.type in END_TYPES:
            continue
        bottoms = tuple(source.get(name, name) for name in layer.bottoms)
        found[layer.name] = (layer.type, bottoms, layer.tops, layer.top_shapes, layer.params, _options(layer))
    return found


def _options(layer: LayerInfo) -> Tuple[Any, ...]:
    """Return the fields that change a layer's result. Fillers do not; nor does how a window names the whole plane."""
    options = []
    for field, message in layer.layer.ListFields():
        if not field.name.endswith("_param") or field.name in ("transform_param", "loss_param"):
            continue
        for option in message.DESCRIPTOR.fields:
            value = getattr(message, option.name)
            plain = tuple(value) if hasattr(value, "extend") else value
            if option.message_type or option.name in ("engine", "frozen") or plain in (option.default_value, ()):
                continue
            options.append((option.name, plain))
    if layer.type == "Pooling" and layer.top_shapes[0][2:] == (1, 1):
        options = [one for one in options if one[0] == "pool"]
    if layer.type == "Convolution":
        options = [(name, value) for name, value in options if value not in ((1,), (0,), 1)]
    return tuple(options)


def _row(what: str, paper: str, net: str, file: str = "") -> Row:
    return Row(what, paper, net if net == (paper or file) else f"{net or 'missing'}, expected {paper or file}",
               OK if net == (paper or file) else FAIL)


def _plane(info: NetInfo, blob: str) -> str:
    shape = info.blobs.get(blob)
    return format_shape(shape[2:]) if shape and len(shape) == 4 else ""


def _window(layers: Dict[str, LayerInfo], name: str, convolution: bool = False) -> str:
    if name not in layers:
        return ""
    layer = layers[name].layer
    if convolution:
        param = layer.convolution_param
        kernel, stride = (list(param.kernel_size) or [0])[0], (list(param.stride) or [1])[0]
        return f"{kernel}x{kernel}, {param.num_output}, stride {stride}"
    return f"{layer.pooling_param.kernel_size}x{layer.pooling_param.kernel_size}, stride {layer.pooling_param.stride}"


def _average_pool(layers: Dict[str, LayerInfo]) -> str:
    """The head's window; one over the whole plane is 7x7 at 224."""
    if "ave_pool" not in layers or layers["ave_pool"].type != "Pooling":
        return ""
    if layers["ave_pool"].layer.pooling_param.global_pooling:
        return "{0}x{0}, stride 1".format(layers["ave_pool"].bottom_shapes[0][2])
    return _window(layers, "ave_pool")


def _units_text(config: NetConfig, width: int, count: int) -> str:
    inner = width if config.preactivation else 2 * width
    groups = f", {config.groups} groups" if config.groups > 1 else ""
    return f"({inner}, {inner}, {4 * width}{groups}) x{count}"


def _units(layers: Dict[str, LayerInfo], prefix: str) -> str:
    """Return widths, groups and number of the units whose names begin so, '' where they differ from one another."""
    names = sorted({name.split("/")[0] for name in layers if name.split("/")[0].startswith(prefix)})
    names = [name for name in names if name in layers]
    texts = set()
    for name in names:
        convolutions = [layers.get(f"{name}/branch1/{part}") for part in ("conv1_1x1", "conv2_3x3", "conv3_1x1")]
        if any(one is None for one in convolutions):
            return ""
        params = [one.layer.convolution_param for one in convolutions if one]
        group = params[1].group
        texts.add(", ".join(str(one.num_output) for one in params) + (f", {group} groups" if group > 1 else ""))
    return f"({texts.pop()}) x{len(names)}" if len(texts) == 1 else ""


def _modules(layers: Dict[str, LayerInfo], letter: str) -> int:
    return len({name.split("/")[0] for name in layers if re.match(rf"Attention{letter}_\d+(/|$)", name)})
