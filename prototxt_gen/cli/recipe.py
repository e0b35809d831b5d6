"""``prototxt-gen recipe``: a folder that trains a network on a set of images."""

from __future__ import annotations

import os
from typing import Any

import click

from prototxt_gen.nets.configs import AUGMENTATIONS, NO_AUGMENTATION
from prototxt_gen.train import recipe as recipes


@click.command(short_help="Write a folder that trains a network: nets, solver, script, README.")
@click.argument("kind", metavar="|".join(recipes.RECIPES))
@click.argument("network", metavar="NET")
@click.argument("folder", metavar="DIR")
@click.option("--augment", type=click.Choice([*AUGMENTATIONS, NO_AUGMENTATION]),
              help="How training images are cut and changed.  [default: paper for imagenet, else cifar]")
@click.option("--batch-size", type=click.IntRange(min=1), metavar="N",
              help="Images per batch of one GPU.  [default: the network's; 32 for fashion-mnist]")
@click.option("--gpus", type=click.IntRange(min=0), metavar="N",
              help="GPUs that train together; 0: the CPU.  [default: 1; 0 for fashion-mnist]")
@click.option("--iterations", type=click.IntRange(min=1), metavar="N",
              help="Updates; the steps of the learning rate move with them.  [default: the paper's; 1000 for "
                   "fashion-mnist]")
def recipe(kind: str, network: str, folder: str, **options: Any) -> None:
    """Write into DIR everything that trains NET, a network's name: train_val.prototxt, deploy.prototxt,
    solver.prototxt, the script run.sh and a README.md that tells how.

    imagenet and cifar are the paper's recipes; fashion-mnist is a training of 5 minutes on the CPU. Files that are
    there and differ are never overwritten.
    """
    texts = recipes.recipe_files(kind, network, **options)
    recipes.write_recipe(folder, texts)
    for name in texts:
        click.echo(os.path.join(click.format_filename(folder), name))
