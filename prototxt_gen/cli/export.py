"""``prototxt-gen export``: a net as ONNX, with its weights, or as a Python script."""

from __future__ import annotations

import sys
from typing import Any, Optional, Sequence

import click

from prototxt_gen.cli.arguments import add_weights, dialect_option, errors_of, input_shapes, load_net
from prototxt_gen.cli.output import deliver, write_stdout_bytes
from prototxt_gen.core.dialects import find_dialect
from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import write_whole

ONNX_ONLY = {"weights": "--weights", "bn_statistic": "--bn-statistic", "batch": "--batch", "inputs": "--input",
             "opset": "--opset"}
DYNAMIC = "dynamic"


@click.command("export", short_help="Export a net with its weights to ONNX, or a net to a Python script.")
@click.argument("net", metavar="NET")
@click.option("--to", "target", type=click.Choice(["onnx", "python"]), required=True, help="What to write.")
@click.option("--weights", metavar="FILE", help="The net's weights, a caffemodel.")
@dialect_option("The fork that wrote NET and its weights.")
@click.option("--bn-statistic", type=click.Choice(["inv-std", "variance"]),
              help="What BN's fourth blob holds: inv-std for the attention fork, variance for models of cuDNN engines.")
@click.option("--batch", metavar="N|dynamic", help="Another batch size, or any: the dimension 'N' of the inputs.")
@click.option("--input", "inputs", multiple=True, metavar="BLOB=N,C,H,W", help="The shape of an input.")
@click.option("--opset", type=int, metavar="N",
              help="The version of ONNX's operators.  [default: 19, which onnxruntime runs since 1.16]")
@click.option("-o", "--output", metavar="FILE", help="Write to FILE, whole or not at all.")
def export(net: str, target: str, dialect: str, output: Optional[str], **settings: Any) -> int:
    """Export NET as ONNX or as Python.

    onnx: what a deploy net computes, with the weights of --weights or of NET, a caffemodel that holds its structure.
    Tensors carry the names of Caffe's blobs.

    python: a script in the words of NetSpec that prints an equal net.
    """
    if target == "python":
        return _export_python(net, dialect, output, settings)
    to_stdout = output in (None, "-")
    if to_stdout and sys.stdout.isatty():
        raise Error("ONNX is binary, and standard output is a terminal", hint="-o FILE writes it to a file")
    data = _export_onnx(net, dialect, **settings).SerializeToString(deterministic=True)
    if to_stdout:
        write_stdout_bytes(data)
    else:
        write_whole(str(output), lambda file: file.write(data))
    return 0


def _export_python(net: str, dialect: str, output: Optional[str], settings: Any) -> int:
    from prototxt_gen.export.to_python import to_python

    for name, flag in ONNX_ONLY.items():
        if settings[name]:
            raise Error(f"{flag} has no meaning with --to python")
    model = load_net(net, dialect=find_dialect(dialect))
    with errors_of(net):
        text = to_python(model)
    return deliver(text, output, None, None, "prototxt-gen export")


def _export_onnx(
    net: str, dialect: str, weights: Optional[str], batch: Optional[str], inputs: Sequence[str],
    bn_statistic: Optional[str], opset: Optional[int],
) -> Any:
    """Return the ONNX model; the net and its weights, as large as it is, are not kept."""
    from prototxt_gen.export.to_onnx import to_onnx
    from prototxt_gen.passes.base import registry

    shapes = input_shapes(inputs)
    model = load_net(net, dialect=find_dialect(dialect))
    if weights is not None:
        model = add_weights(model, weights, shapes)
    dynamic = batch == DYNAMIC
    if batch and not dynamic:
        if not batch.isdecimal() or int(batch) < 1:
            raise Error(f"--batch {batch} is no batch size", hint="write --batch 8, or --batch dynamic")
        if inputs:
            raise Error("--batch N and --input exclude one another", hint="--input BLOB=N,C,H,W has the batch in it")
        with errors_of(net):
            model = registry.find("batch")(model, batch_size=int(batch)).model
    with errors_of(net):
        return to_onnx(model, opset=opset, dynamic_batch=dynamic, input_shapes=shapes, bn_statistic=bn_statistic)
