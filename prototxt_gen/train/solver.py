"""Solver prototxts from presets: the paper's recipes, and a short one to see that everything works."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, List, Mapping, Optional, Tuple

from prototxt_gen.core import graph
from prototxt_gen.core.dialects import DEFAULT_DIALECT
from prototxt_gen.core.errors import Error, did_you_mean
from prototxt_gen.core.io import dumps, loads
from prototxt_gen.core.solvers import POLICIES, SOLVER_TYPES, WITHOUT_MOMENTUM
from prototxt_gen.nets.configs import NETWORKS
from prototxt_gen.train.rendering import render


@dataclass(frozen=True)
class Preset:
    """One recipe. Iterations count updates; ``total_batch`` is images an update, None: what the net's batch gives."""

    about: str
    iterations: int
    steps: Tuple[int, ...]  # iterations after which the learning rate is multiplied by gamma
    total_batch: Optional[int]
    test_images: int
    test_interval: int
    display: int
    snapshot: int
    base_lr: float = 0.1
    gamma: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0001
    mode: str = "GPU"
    test_first: bool = True
    random_seed: Optional[int] = None
    note: str = ""


PRESETS = {
    "imagenet": Preset(
        "the paper's ImageNet recipe",
        iterations=530000,
        steps=(200000, 400000, 500000),
        total_batch=256,
        test_images=50000,
        test_interval=5000,
        display=100,
        snapshot=10000,
        note="The paper prints no batch size; 256 is the usual reading. BN wants at least 32 images per GPU.",
    ),
    "cifar": Preset(
        "the paper's CIFAR recipe",
        iterations=160000,
        steps=(64000, 96000),
        total_batch=64,
        test_images=10000,
        test_interval=1000,
        display=100,
        snapshot=10000,
    ),
    "smoke": Preset(
        "a short run on the CPU, to see that everything works",
        iterations=250,
        steps=(170, 225),
        total_batch=None,
        test_images=2000,
        test_interval=250,
        display=10,
        snapshot=250,
        base_lr=0.05,
        mode="CPU",
        test_first=False,
        random_seed=1,
    ),
}

# The least value that makes sense in each field: below it Caffe aborts, divides by zero, or unlearns.
LEAST = {
    "average_loss": 1, "base_lr": 0, "delta": 0, "device_id": 0, "display": 0, "gamma": 0, "iter_size": 1,
    "max_iter": 1, "momentum": 0, "momentum2": 0, "rms_decay": 0, "snapshot": 0, "stepsize": 1, "stepvalue": 1,
    "test_interval": 1, "test_iter": 1, "weight_decay": 0,
}
# Shares of the old value that are kept: with 1 and more, sums grow without end.
BELOW_ONE = ("momentum", "momentum2", "rms_decay")


@dataclass(frozen=True)
class NetFacts:
    """What a solver needs to know of its net: its name, and the images in a batch of each phase."""

    name: str
    batch: int
    test_batch: int


def find_preset(name: str) -> Preset:
    """Return the preset called ``name``."""
    if name not in PRESETS:
        raise Error(f"no preset is called '{name}'", hint=did_you_mean(name, PRESETS, f"presets: {', '.join(PRESETS)}"))
    return PRESETS[name]


def default_preset(net_name: str) -> str:
    """Return the name of the recipe that the paper gives for a net, known by its name."""
    for config in NETWORKS.values():
        if net_name in (config.name, config.published_name):
            return "imagenet" if config.input_size == 224 else "cifar"
    raise Error(f"no recipe is known for a net called '{net_name}'", hint=f"choose one: --preset {'|'.join(PRESETS)}")


def facts_of_net(net: Any, where: str) -> NetFacts:
    """Read the batch sizes off the Data or AugmentedData layers of a train_val net."""
    batches = []
    for phase, name in ((graph.TRAIN, "TRAIN"), (graph.TEST, "TEST")):
        layers = graph.layers_in(net, graph.net_state(phase, net))
        params = [param for layer in layers for param in (layer.data_param, layer.augmented_data_param)]
        sizes = [param.batch_size for param in params if param.batch_size]
        if not sizes:
            raise Error(f"the net has no Data layer with a batch size in phase {name}", where,
                        "a solver needs a train_val net: prototxt-gen NETWORK writes one")
        batches.append(sizes[0])
    return NetFacts(net.name, *batches)


def render_solver(
    facts: NetFacts,
    preset_name: str,
    *,
    net: str,
    snapshot_prefix: str,
    gpus: int = 1,
    total_batch: Optional[int] = None,
    test_images: Optional[int] = None,
    settings: Optional[Mapping[str, str]] = None,
) -> str:
    """Return a solver prototxt, parsed against the schema before it is given out.

    ``iter_size`` follows from the images wanted per update: total_batch = batch x iter_size x gpus. ``settings`` are
    fields of SolverParameter as text; one that the preset writes is replaced.
    """
    preset = find_preset(preset_name)
    wanted = total_batch or preset.total_batch or facts.batch * gpus
    iter_size, rest = divmod(wanted, facts.batch * gpus)
    if rest or not iter_size:
        raise Error(f"{wanted} images an update are no multiple of {facts.batch} images x {gpus} GPU{'s' * (gpus > 1)}",
                    hint="choose another --total-batch, --gpus or batch size of the net")
    test_images = test_images or preset.test_images
    text = render("solver.prototxt.jinja", dict(
        title=facts.name, preset=preset, net=net, snapshot_prefix=snapshot_prefix, batch=facts.batch, gpus=gpus,
        iter_size=iter_size, test_batch=facts.test_batch, test_images=test_images,
        test_iter=-(-test_images // facts.test_batch),
    ))
    settings = settings or {}
    for name, value in settings.items():
        text = _with_setting(text, name, value)
    solver = loads(text, DEFAULT_DIALECT.message("SolverParameter"), "the solver")
    for name in _stale(solver):
        if name not in settings:
            text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith(f"{name}: "))
            solver.ClearField(name)
    _check_settings(solver, settings)
    return text


def _stale(solver: Any) -> List[str]:
    """Return the fields that a recipe writes and the solver's type and policy do not read."""
    stale = [name for name in ("gamma", "stepvalue") if name not in POLICIES.get(solver.lr_policy, ())]
    return stale + ["momentum"] * (solver.type in WITHOUT_MOMENTUM)


def _check_settings(solver: Any, settings: Mapping[str, str]) -> None:
    """Check fields set by hand: what Caffe would refuse, and values that make no sense."""
    for name, value in settings.items():
        where = f"--set {name}={value}"
        given = getattr(solver, name)
        for one in given if hasattr(given, "extend") else [given]:
            if isinstance(one, float) and not math.isfinite(one):
                raise Error(f"{name} is no number", where)
            if name in LEAST and one < LEAST[name]:
                raise Error(f"{name} is below {LEAST[name]}", where)
            if name in BELOW_ONE and one >= 1:
                raise Error(f"{name} is not below 1", where)
    if solver.HasField("solver_type"):
        raise Error("solver_type is the old form of type, and Caffe takes only one", hint="write --set type=...")
    if solver.type not in SOLVER_TYPES:
        hint = did_you_mean(solver.type, SOLVER_TYPES, f"types: {', '.join(SOLVER_TYPES)}")
        raise Error(f"Caffe has no solver of the type '{solver.type}'", hint=hint)
    if solver.type in WITHOUT_MOMENTUM and solver.momentum:
        raise Error(f"{solver.type} does not take momentum, and Caffe aborts", hint="leave it out")
    policy = solver.lr_policy
    if policy not in POLICIES:
        hint = did_you_mean(policy, POLICIES, f"policies: {', '.join(POLICIES)}")
        raise Error(f"Caffe has no learning rate policy '{policy}'", hint=hint)
    for name in POLICIES[policy]:
        if not (len(solver.stepvalue) if name == "stepvalue" else solver.HasField(name)):
            raise Error(f"lr_policy '{policy}' needs {name}, which is not given", hint=f"add --set {name}=...")


def with_settings(solver: Any, settings: Mapping[str, str]) -> Any:
    """Return a copy of a solver with fields set by hand, given as text and checked as ``render_solver`` checks them."""
    text = dumps(solver)
    for name, value in settings.items():
        text = _with_setting(text, name, value)
    changed = loads(text, type(solver), "the solver")
    _check_settings(changed, settings)
    return changed


def _with_setting(text: str, name: str, value: str) -> str:
    """Replace the lines of a field that is set by hand, or add them at the end; commas part the values of a list."""
    solver = DEFAULT_DIALECT.message("SolverParameter")
    if name not in solver.DESCRIPTOR.fields_by_name:
        raise Error(f"a solver has no field '{name}'", hint=did_you_mean(name, solver.DESCRIPTOR.fields_by_name))
    field = solver.DESCRIPTOR.fields_by_name[name]
    values = value.split(",") if hasattr(getattr(solver(), name), "extend") else [value]
    if field.cpp_type == field.CPPTYPE_STRING:
        values = [json.dumps(one) for one in values]
    new = [f"{name}: {one}" for one in values]
    for line in new:
        loads(line, solver, f"--set {name}={value}")
    lines = text.splitlines()
    old = [index for index, line in enumerate(lines) if line.startswith(f"{name}: ")]
    if old:
        lines[old[0]:old[-1] + 1] = new
    else:
        lines += new
    return "\n".join(lines) + "\n"
