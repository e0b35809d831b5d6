"""The networks as data.

Residual Attention Network for Image Classification (Wang et al., CVPR 2017, arXiv 1704.06904) and the deploy files that
its authors published. The CIFAR networks are reconstructions from the paper's text: no file of them was published.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Dict, Mapping, Optional, Tuple

from prototxt_gen.core.errors import Error, did_you_mean


@dataclass(frozen=True)
class MaskNames:
    """Names inside an attention module; the two published families spell them differently."""

    down: str
    up: str
    product: str  # appended to the module's name


@dataclass(frozen=True)
class NetConfig:
    """One network: stages of a residual unit and attention modules each, then three units and the classifier.

    The last of ``widths`` is that of the three final units. A unit of width c has 4c output channels.
    """

    name: str
    source: str  # where the architecture comes from
    published_name: Optional[str]  # the name in the authors' own deploy file; None: they published none
    modules: Tuple[int, ...]  # attention modules per stage
    mask_levels: Tuple[int, ...]  # poolings in each module's mask, per stage
    mask_names: MaskNames
    widths: Tuple[int, ...] = (64, 128, 256, 512)  # channels, per stage and for the final units
    strides: Tuple[int, ...] = (1, 2, 2, 2)  # of the first unit of each, likewise
    pre_units: int = 1  # p: units before and after the trunk and mask of a module
    trunk_units: int = 2  # t: units in the trunk
    mask_units: int = 1  # r: units between neighbouring poolings of the mask
    groups: int = 1  # of the 3x3 convolutions; more than 1 makes ResNeXt units
    stem_width: int = 64  # channels
    stem_kernel: int = 7  # pixels
    stem_stride: int = 2
    stem_pooling: bool = True
    classes: int = 1000
    input_size: int = 224  # pixels, height and width
    channels: int = 3
    mean: Tuple[float, ...] = (104.0, 117.0, 123.0)  # blue, green, red; of 255
    batch_size: int = 32  # images per GPU in training
    test_batch_size: int = 25  # images
    train_images: int = 1281167
    test_images: int = 50000
    remark: str = ""  # what a user should know of its source

    @property
    def depth(self) -> int:
        """Trunk depth: weighted layers on the longest way outside masks and projections, as the paper counts it."""
        return 2 + 3 * len(self.modules) + 3 * 3 + 3 * sum(self.modules) * (2 * self.pre_units + self.trunk_units)

    @property
    def preactivation(self) -> bool:
        """BN and ReLU come before each convolution (Attention), not after it (AttentionNeXt)."""
        return self.groups == 1

    @property
    def reconstruction(self) -> bool:
        """True where the paper's text is the only source."""
        return self.published_name is None


ATTENTION_NAMES = MaskNames(down="down_sample", up="up_sample", product="_residual")
ATTENTIONNEXT_NAMES = MaskNames(down="down", up="up", product="/attention_residual")

_ATTENTION56 = NetConfig(
    name="Attention-56",
    source="the authors' deploy file; table 2 of the paper",
    published_name="Attention-56",
    modules=(1, 1, 1),
    mask_levels=(3, 2, 1),
    mask_names=ATTENTION_NAMES,
)
_ATTENTIONNEXT56 = replace(
    _ATTENTION56,
    name="AttentionNeXt-56",
    source="the authors' deploy file",
    published_name="AttentionNext-56",  # so spelt in the file
    groups=32,
    mask_names=ATTENTIONNEXT_NAMES,
)
_ATTENTION56_CIFAR = replace(
    _ATTENTION56,
    name="Attention-56-CIFAR",
    source="reconstruction: section 4.1 of the paper",
    published_name=None,
    widths=(16, 32, 64, 64),
    strides=(1, 2, 2, 1),
    stem_width=16,
    stem_kernel=3,
    stem_stride=1,
    stem_pooling=False,
    classes=10,
    input_size=32,
    mean=(113.9, 123.0, 125.3),
    batch_size=64,
    test_batch_size=100,
    train_images=50000,
    test_images=10000,
)

NETWORKS: Dict[str, NetConfig] = {
    "attention56": _ATTENTION56,
    "attention92": replace(_ATTENTION56, name="Attention-92", published_name="Attention-92", modules=(1, 2, 3)),
    "attentionnext56": _ATTENTIONNEXT56,
    "attentionnext92": replace(
        _ATTENTIONNEXT56, name="AttentionNeXt-92", published_name="AttentionNeXt-92", modules=(1, 2, 3)
    ),
    "attention56-cifar": _ATTENTION56_CIFAR,
    "attention92-cifar": replace(_ATTENTION56_CIFAR, name="Attention-92-CIFAR", modules=(2, 2, 2)),
    "attention236-cifar": replace(_ATTENTION56_CIFAR, name="Attention-236-CIFAR", modules=(6, 6, 6)),
    "attention452-cifar": replace(
        _ATTENTION56_CIFAR, name="Attention-452-CIFAR", modules=(6, 6, 6), pre_units=2, trunk_units=4, mask_units=3,
        remark="The paper prints 8.6 M parameters for Attention-452; this reading of its text has 10.1 M.",
    ),
}


@dataclass(frozen=True)
class Augmentation:
    """How the images of a training are cut and changed: all are mirrored at random, none is in TEST.

    Training images are either padded and cut, or a random share of them is cut out and resized. Test images are cut in
    the middle.
    """

    about: str
    source: str  # where the numbers come from
    pad_px: int = 0  # black border before the crop, on each side; 0: cut out and resized instead
    area: Tuple[float, float] = (1.0, 1.0)  # least and greatest share of the image's area
    aspect: Tuple[float, float] = (1.0, 1.0)  # least and greatest width / height of the share
    pca_std: float = 0.0  # standard deviation of the colour noise along the principal components
    test_short: float = 0.0  # short side of test images before the crop, in sizes of the crop; 0: not resized


NO_AUGMENTATION = "none"
AUGMENTATIONS: Dict[str, Augmentation] = {
    "paper": Augmentation(
        about="random shares of the image and colour noise, as on ImageNet",
        source="section 4.2 of the paper: the scale and aspect ratios of GoogLeNet, the colour noise of AlexNet",
        area=(0.08, 1.0),
        aspect=(3 / 4, 4 / 3),
        pca_std=0.1,
        test_short=256 / 224,
    ),
    "cifar": Augmentation(
        about="a random crop out of a border of 4 pixels, as on CIFAR",
        source="section 4.1 of the paper",
        pad_px=4,
    ),
}

# What a user may change from the command line, and the fewest values that make sense.
SETTABLE = ("modules", "mask_levels", "widths", "strides", "pre_units", "trunk_units", "mask_units", "groups",
            "stem_width", "stem_kernel", "stem_stride", "stem_pooling", "channels")


def find_network(name: str) -> NetConfig:
    """Return the network called ``name``."""
    if name not in NETWORKS:
        hint = did_you_mean(name, NETWORKS, f"networks: {', '.join(NETWORKS)}")
        raise Error(f"no network is called '{name}'", hint=hint)
    return NETWORKS[name]


def find_augmentation(name: str) -> Optional[Augmentation]:
    """Return the augmentation called ``name``, None for ``none``."""
    if name == NO_AUGMENTATION:
        return None
    if name not in AUGMENTATIONS:
        known = [*AUGMENTATIONS, NO_AUGMENTATION]
        raise Error(f"no augmentation is called '{name}'", hint=did_you_mean(name, known, f"one of {', '.join(known)}"))
    return AUGMENTATIONS[name]


def vary(config: NetConfig, changes: Mapping[str, str]) -> NetConfig:
    """Return a variant of a network with fields set from text: ``{"modules": "1,1,2", "pre_units": "2"}``."""
    kinds = {one.name: getattr(config, one.name) for one in fields(config)}
    values: Dict[str, Any] = {}
    for name, text in changes.items():
        if name not in SETTABLE:
            hint = did_you_mean(name, SETTABLE, f"settable: {', '.join(SETTABLE)}")
            raise Error(f"a network has no setting '{name}'", hint=hint)
        values[name] = _value(name, text, kinds[name])
    return validate(replace(config, **values))


def validate(config: NetConfig) -> NetConfig:
    """Return ``config`` unchanged when it describes a net that can exist; raise Error otherwise."""
    stages = len(config.modules)
    for name, wanted in (("mask_levels", stages), ("widths", stages + 1), ("strides", stages + 1)):
        if len(getattr(config, name)) != wanted:
            raise Error(f"'{name}' has {len(getattr(config, name))} values, and {stages} stages need {wanted}")
    if stages > 26:
        raise Error(f"{stages} stages are more than the letters that name them")
    least = {"modules": 0, "trunk_units": 0}
    for name in SETTABLE:
        value = getattr(config, name)
        for one in value if isinstance(value, tuple) else (value,):
            if one < least.get(name, 1) and name != "stem_pooling":
                raise Error(f"'{name}' is {one}, and at least {least.get(name, 1)} is needed")
    if config.stem_kernel % 2 == 0:
        raise Error(f"'stem_kernel' is {config.stem_kernel}; padding by half the kernel needs an odd one")
    for width in config.widths:
        if config.groups > 1 and 2 * width % config.groups:
            what = f"{2 * width} channels do not divide into {config.groups} groups"
            raise Error(what, hint="change widths or groups")
    return config


def _value(name: str, text: str, current: Any) -> Any:
    try:
        if isinstance(current, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(current, tuple):
            return tuple(int(part) for part in text.split(","))
        return int(text)
    except (ValueError, KeyError):
        kind = "true or false" if isinstance(current, bool) else "whole numbers with commas between" if isinstance(
            current, tuple) else "a whole number"
        raise Error(f"setting '{name}' does not take '{text}'", hint=f"it takes {kind}") from None
