"""``prototxt-gen NETWORK``: write, check or compare a net; ``prototxt-gen list``."""

from __future__ import annotations

import json
from typing import Any, Dict, Tuple

import click

from prototxt_gen.cli.arguments import assignments
from prototxt_gen.cli.output import deliver, output_options
from prototxt_gen.core.errors import Error
from prototxt_gen.nets.configs import (
    AUGMENTATIONS, NETWORKS, NO_AUGMENTATION, NetConfig, find_augmentation, find_network, vary,
)

POSITIVE = click.IntRange(min=1)
TRAIN_ONLY = ("source", "test_source", "test_batch_size", "mean", "crop", "augment")


def network_command(name: str) -> click.Command:
    """Return the command that generates one network."""
    config = find_network(name)

    @click.command(name, help=_help(config), short_help=_short_help(config))
    @click.option("--phase", type=click.Choice(["train", "deploy"]),
                  help="train: data layers, fillers, loss, accuracies. deploy: Input and Softmax.  [default: train]")
    @click.option("--published", is_flag=True, help="The authors' own deploy file, repaired where Caffe refuses it.")
    @click.option("--source", metavar="LMDB", help="Training images.  [default: train_lmdb]")
    @click.option("--test-source", metavar="LMDB", help="Test images.  [default: test_lmdb]")
    @click.option("--batch-size", type=POSITIVE, metavar="N",
                  help=f"Images per batch.  [default: {config.batch_size} in training, 1 deployed]")
    @click.option("--test-batch-size", type=POSITIVE, metavar="N",
                  help=f"Images per batch in TEST.  [default: {config.test_batch_size}]")
    @click.option("--mean", metavar="MEAN",
                  help="Subtracted from the images: one value per channel (b,g,r), a file of them, a .binaryproto, or "
                       f"none.  [default: {','.join(f'{one:g}' for one in config.mean)}]")
    @click.option("--crop", type=POSITIVE, metavar="PIXELS",
                  help=f"Crop of the training images, the net's input size.  [default: {config.input_size}]")
    @click.option("--augment", type=click.Choice([*AUGMENTATIONS, NO_AUGMENTATION]),
                  help=f"paper: {AUGMENTATIONS['paper'].about}. cifar: {AUGMENTATIONS['cifar'].about}. Both by the "
                       "AugmentedData layer of this project's Caffe. none: stock Data layers.  [default: none]")
    @click.option("--input-size", type=POSITIVE, metavar="PIXELS",
                  help=f"Height and width of the input.  [default: {config.input_size}]")
    @click.option("--classes", type=POSITIVE, metavar="N", help=f"Classes.  [default: {config.classes}]")
    @click.option("--name", "net_name", metavar="NAME", help=f"Name of the net.  [default: {config.name}]")
    @click.option("--set", "settings", multiple=True, metavar="FIELD=VALUE",
                  help="Change the architecture: modules, widths, pre_units, ... May be repeated.")
    @output_options
    def command(**options: Any) -> int:
        text = generate(name, options)
        return deliver(text, options["output"], options["check"], options["diff"], f"prototxt-gen {name}")

    return command


def generate(name: str, options: Dict[str, Any]) -> str:
    """Return the prototxt that the options of a network command ask for."""
    from prototxt_gen.nets.builder import DEPLOY, PUBLISHED, TRAIN, build

    form = PUBLISHED if options["published"] else DEPLOY if options["phase"] == "deploy" else TRAIN
    _refuse_unused(form, options)
    if options["net_name"] == "":
        raise Error("--name is empty")
    config = find_network(name)
    if options["settings"]:
        config = vary(config, assignments(options["settings"]))
    crop, input_size = options["crop"], options["input_size"]
    if crop and input_size and crop != input_size:
        raise Error(f"--crop {crop} and --input-size {input_size} differ", hint="the crop is the net's input: give one")
    model = build(
        config,
        form,
        name=options["net_name"],
        input_size=crop or input_size,
        batch_size=options["batch_size"],
        test_batch_size=options["test_batch_size"],
        classes=options["classes"],
        data=_data_ends(config, options) if form == TRAIN else None,
    )
    return model.dumps()


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def list_networks(as_json: bool) -> None:
    """List the networks."""
    rows = [
        dict(name=name, depth=config.depth, modules=list(config.modules), input=_input_shape(config),
             classes=config.classes, source="reconstruction" if config.reconstruction else "published",
             origin=config.source)
        for name, config in NETWORKS.items()
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2, sort_keys=True))
        return
    table = [("network", "depth", "modules", "input", "classes", "source")]
    for row in rows:
        table.append((row["name"], str(row["depth"]), "-".join(map(str, row["modules"])),
                      "x".join(map(str, row["input"])), str(row["classes"]), row["source"]))
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    for line in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


def _input_shape(config: NetConfig) -> Tuple[int, int, int]:
    return (config.channels, config.input_size, config.input_size)


def _short_help(config: NetConfig) -> str:
    kind = "reconstruction" if config.reconstruction else "published"
    shape = "x".join(map(str, _input_shape(config)))
    return f"Depth {config.depth}, {shape}, {config.classes} classes; {kind}."


def _help(config: NetConfig) -> str:
    modules = ", ".join(map(str, config.modules))
    text = f"Write {config.name} as a prototxt.\n\nTrunk depth {config.depth}; attention modules per stage: {modules}."
    return f"{text}\n\nSource: {config.source}." + (f" {config.remark}" if config.remark else "")


def _refuse_unused(form: str, options: Dict[str, Any]) -> None:
    """An option that would change nothing is a mistake to name, not to swallow."""
    unused = {"train": (), "deploy": TRAIN_ONLY}.get(
        form, (*TRAIN_ONLY, "phase", "batch_size", "input_size", "classes", "net_name", "settings"))
    for option in unused:
        if options[option]:
            flag = {"net_name": "--name", "settings": "--set"}.get(option, "--" + option.replace("_", "-"))
            raise Error(f"{flag} has no meaning with {'--published' if form == 'published' else '--phase deploy'}")


def _data_ends(config: NetConfig, options: Dict[str, Any]) -> Any:
    from prototxt_gen.nets.builder import DataEnds, read_mean

    given = options["mean"]
    return DataEnds(
        source=options["source"] or DataEnds.source,
        test_source=options["test_source"] or DataEnds.test_source,
        mean=config.mean if given is None else read_mean(given, config.channels),
        augmentation=find_augmentation(options["augment"] or NO_AUGMENTATION),
    )
