"""Recipes: a folder with everything that trains a network on a set of images, from the data to the accuracy.

    train_val.prototxt, deploy.prototxt, solver.prototxt    the nets and the recipe of the training
    run.sh                                                  data, preview, train, resume, test
    README.md                                               the commands, and what to expect of them

All paths in them are relative to the folder, where run.sh goes first.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Dict, Optional, Tuple

from prototxt_gen.core.errors import Error, did_you_mean
from prototxt_gen.core.io import write_text
from prototxt_gen.nets.builder import DEPLOY, TRAIN, DataEnds, build
from prototxt_gen.nets.configs import AUGMENTATIONS, NETWORKS, find_augmentation, find_network
from prototxt_gen.train.data import TEST_LMDB, TRAIN_LMDB
from prototxt_gen.train.rendering import render
from prototxt_gen.train.solver import NetFacts, Preset, find_preset, render_solver

NET, DEPLOYED, SOLVER = "train_val.prototxt", "deploy.prototxt", "solver.prototxt"
SCRIPT, README = "run.sh", "README.md"
DATA, SNAPSHOTS = "data", "snapshots"
LEAST_BN_IMAGES = 32  # of one GPU, which is all that BN sees


@dataclass(frozen=True)
class Recipe:
    """A set of images and how it is trained on. ``prepare`` are the arguments of ``prototxt-gen data``."""

    images: str
    input_size: int  # pixels; of the networks it is for
    preset: str
    augment: str
    gpus: int  # 0: the CPU
    prepare: str
    wants: str  # what the user has to have first
    iterations: Optional[int] = None  # None: the preset's
    batch_size: Optional[int] = None  # images per GPU; None: the network's
    mean: Optional[Tuple[float, ...]] = None  # None: the network's


RECIPES = {
    "imagenet": Recipe(
        "ImageNet", 224, "imagenet", "paper", 1, 'folder "$images" data --resize 256',
        "the images of ILSVRC 2012 in folders train/CLASS and val/CLASS",
    ),
    "cifar": Recipe(
        "CIFAR-10", 32, "cifar", "cifar", 1, 'cifar "$images" data',
        "the binary version of CIFAR-10, cifar-10-binary.tar.gz or what is in it",
    ),
    "fashion-mnist": Recipe(
        "Fashion-MNIST", 32, "smoke", "cifar", 0, "fashion-mnist data",
        "Debian's package dataset-fashion-mnist", iterations=1000, batch_size=32, mean=(55.845,),
    ),
}

# The paper's errors, one crop, by recipe and network.
PAPER_ERRORS = {
    ("imagenet", "attention56"): "top-1 21.76 %, top-5 5.9 %",
    ("imagenet", "attentionnext56"): "top-1 21.2 %, top-5 5.6 %",
    ("imagenet", "attention92"): "top-1 19.5 %, top-5 4.8 %, on crops of 320 pixels",
    ("cifar", "attention92-cifar"): "top-1 4.99 %",
    ("cifar", "attention236-cifar"): "top-1 4.14 %",
    ("cifar", "attention452-cifar"): "top-1 3.90 %",
}


def find_recipe(name: str) -> Recipe:
    """Return the recipe called ``name``."""
    if name not in RECIPES:
        raise Error(f"no recipe is called '{name}'", hint=did_you_mean(name, RECIPES, f"recipes: {', '.join(RECIPES)}"))
    return RECIPES[name]


def recipe_files(
    name: str,
    network: str,
    *,
    augment: Optional[str] = None,
    batch_size: Optional[int] = None,
    gpus: Optional[int] = None,
    iterations: Optional[int] = None,
) -> Dict[str, str]:
    """Return the texts of a recipe's files by name.

    ``batch_size`` counts the images of one GPU, ``gpus`` 0 is the CPU, ``iterations`` are updates: the steps of the
    learning rate move with them. Images an update are as near to the recipe's as batches and GPUs allow.
    """
    recipe, config = find_recipe(name), find_network(network)
    if config.input_size != recipe.input_size:
        fitting = [one for one, other in NETWORKS.items() if other.input_size == recipe.input_size]
        what = f"{network} is made for {config.input_size}x{config.input_size} pixels, and {recipe.images} trains"
        raise Error(f"{what} at {recipe.input_size}x{recipe.input_size}", hint=f"networks for it: {', '.join(fitting)}")
    config = replace(config, batch_size=batch_size or recipe.batch_size or config.batch_size,
                     mean=recipe.mean or config.mean)
    kind = augment or recipe.augment
    gpu_count = recipe.gpus if gpus is None else gpus
    preset = find_preset(recipe.preset)
    updates = iterations or recipe.iterations or preset.iterations
    batch = config.batch_size * max(1, gpu_count)
    total = batch * max(1, round((preset.total_batch or batch) / batch))
    ends = DataEnds(f"{DATA}/{TRAIN_LMDB}", f"{DATA}/{TEST_LMDB}", config.mean, find_augmentation(kind))
    solver = render_solver(
        NetFacts(config.name, config.batch_size, config.test_batch_size), recipe.preset, net=NET,
        snapshot_prefix=f"{SNAPSHOTS}/{network}", gpus=max(1, gpu_count), total_batch=total,
        settings=_settings(preset, updates, gpu_count),
    )
    given = {"--augment": augment, "--batch-size": batch_size, "--gpus": gpus, "--iterations": iterations}
    values = dict(
        command=" ".join(["prototxt-gen recipe", name, network, "DIR", *(
            f"{option} {value}" for option, value in given.items() if value is not None)]),
        title=config.name, name=name, network=network, recipe=recipe, augment=kind,
        augmentation=AUGMENTATIONS.get(kind), gpus=gpu_count, batch=config.batch_size, total=total,
        preset=preset, updates=updates, test_images=config.test_images, net=NET, solver=SOLVER, deploy=DEPLOYED,
        device=f"--gpu {','.join(map(str, range(gpu_count)))}" if gpu_count else "--cpu",
        few_images=config.batch_size < LEAST_BN_IMAGES, least_images=LEAST_BN_IMAGES,
        paper_errors=PAPER_ERRORS.get((name, network)),
    )
    return {
        NET: build(config, TRAIN, data=ends).dumps(),
        DEPLOYED: build(config, DEPLOY).dumps(),
        SOLVER: solver,
        SCRIPT: render("recipe_run.sh.jinja", values),
        README: render("recipe_readme.md.jinja", values),
    }


def _settings(preset: Preset, updates: int, gpus: int) -> Dict[str, str]:
    """Return the fields of the solver that differ from the preset's."""
    settings = {}
    if updates != preset.iterations:
        steps = [max(1, round(step * updates / preset.iterations)) for step in preset.steps]
        settings.update(max_iter=str(updates), stepvalue=",".join(map(str, steps)))
        for field in ("test_interval", "snapshot", "display"):
            if getattr(preset, field) > updates:
                settings[field] = str(updates)
    mode = "GPU" if gpus else "CPU"
    if mode != preset.mode:
        settings["solver_mode"] = mode
    return settings


def write_recipe(folder: str, texts: Dict[str, str]) -> None:
    """Write a recipe's files into a folder, which may be there.

    Raises Error, before anything is written, where one of them is there already and differs.
    """
    differing = [name for name, text in texts.items() if not _may_write(os.path.join(folder, name), text)]
    if differing:
        what = f"has {', '.join(differing)} of its own, and {'it differs' if len(differing) == 1 else 'they differ'}"
        raise Error(what, folder, "choose another folder, or remove what is in the way")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise Error(f"cannot make the folder: {error.strerror}", folder) from None
    for name, text in texts.items():
        write_text(os.path.join(folder, name), text)
    script = os.path.join(folder, SCRIPT)
    os.chmod(script, os.stat(script).st_mode | 0o111)


def _may_write(path: str, text: str) -> bool:
    """True where nothing is at ``path``, or what would be written."""
    if not os.path.lexists(path):
        return True
    try:
        with open(path, "rb") as file:
            return file.read() == text.encode()
    except OSError:
        return False
