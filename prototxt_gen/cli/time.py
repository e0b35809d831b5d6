"""``prototxt-gen time``: how long each layer of a net takes, beside what the machine can do."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Optional, Sequence, Tuple

import click

from prototxt_gen.cli.arguments import input_shapes, load_net
from prototxt_gen.cli.data_progress import Progress
from prototxt_gen.cli.output import write_stdout
from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import display_name

HEADS = ("forward ms", "backward ms", "share", "GMAC", "rate", "of machine")


@click.command("time", short_help="Time of each layer, and how far it is from the machine's rates.")
@click.argument("net", metavar="NET")
@click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help="[default: NET's own]")
@click.option("--iterations", type=click.IntRange(min=1), default=10, show_default=True, metavar="N",
              help="Times are medians over so many, after two more.")
@click.option("--forward-only", is_flag=True, help="Time a training net in the phase TEST, without backward.")
@click.option("--input", "inputs", multiple=True, metavar="BLOB=N,C,H,W",
              help="Shape of a blob that the net does not tell.")
@click.option("--by", type=click.Choice(["layer", "type"]), default="type", show_default=True,
              help="What a line of the table is.")
@click.option("--sort", type=click.Choice(["time", "net"]),
              help="The longest first, or in the order of the net.  [default: time by type, net by layer]")
@click.option("--cpu", is_flag=True, help="Run on the CPU, as without --gpu.")
@click.option("--gpu", type=click.IntRange(min=0), metavar="ID", help="Run on this GPU.")
@click.option("--caffe", "root", metavar="DIR", help="The Caffe to run.  [default: as caffe info finds it]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, with every layer and type.")
def time(
    net: str, batch_size: Optional[int], iterations: int, forward_only: bool, inputs: Tuple[str, ...], by: str,
    sort: Optional[str], cpu: bool, gpu: Optional[int], root: Optional[str], as_json: bool,
) -> None:
    """Time a net layer by layer, forward and backward; one without a loss forward only.

    No data is needed: random images and labels stand in for it. Layers with multiply-adds are held against a matrix
    product, the others, by the bytes that they move at least, against a copy of 64 MiB; both are measured right before.
    Blobs that fit the processor's cache are moved faster than that. GMAC and rate count forward and backward.
    """
    from prototxt_gen.train import caffe as caffes
    from prototxt_gen.train import timing

    if cpu and gpu is not None:
        raise Error("--cpu and --gpu exclude one another")
    caffe = caffes.find(root, gpu is not None)
    job = timing.plan(load_net(net), caffe, batch_size=batch_size, iterations=iterations, forward_only=forward_only,
                      given=input_shapes(inputs), where=display_name(net))
    with Progress("iterations") as progress:
        measured = timing.run(job, caffe, gpu, progress.show)
    if as_json:
        write_stdout(json.dumps(_document(job, measured), indent=2, sort_keys=True) + "\n")
        return
    rows = list(measured.rows) if by == "layer" else measured.by_type()
    if (sort or ("net" if by == "layer" else "time")) == "time":
        rows.sort(key=lambda row: -row.seconds)
    write_stdout("".join(f"{line}\n" for line in [*_table(measured, rows, by), "", *_totals(job, measured)]))


def _table(measured: Any, rows: Sequence[Any], by: str) -> List[str]:
    lead = ("layer", "type") if by == "layer" else ("type", "layers")
    table = [(*lead, *HEADS)]
    for row in rows:
        first = (row.name, row.type) if by == "layer" else (row.name, str(row.layers))
        table.append((*first, *_cells(measured, row)))
    table.append(("total", "" if by == "layer" else str(len(measured.rows)), *_cells(measured, measured.total)[:4],
                  "", ""))
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    left = {0, 1} if by == "layer" else {0}
    return ["  ".join(cell.ljust(width) if column in left else cell.rjust(width)
                      for column, (cell, width) in enumerate(zip(line, widths))).rstrip() for line in table]


def _cells(measured: Any, row: Any) -> Tuple[str, ...]:
    rate, share = "", measured.of_machine(row)
    if share is not None:
        unit, work = ("GMAC/s", row.macs) if row.macs else ("GB/s", row.bytes)
        rate = f"{work / row.seconds / 1e9:.1f} {unit:<6}"
    return (f"{row.forward_s * 1e3:.2f}", f"{row.backward_s * 1e3:.2f}",
            f"{row.seconds / measured.total.seconds:.1%}", f"{row.macs / 1e9:.3f}" if row.macs else "", rate,
            "" if share is None else f"{share:.0%}")


def _totals(job: Any, measured: Any) -> List[str]:
    total = measured.total
    floor = measured.floor_s
    return [
        f"{job.where}, {'TRAIN' if job.backward else 'TEST'}, batch {job.batch_size}: "
        f"{total.forward_s * 1e3:.1f} ms forward"
        + (f" + {total.backward_s * 1e3:.1f} ms backward = {total.seconds * 1e3:.1f} ms" if job.backward else "")
        + f", {job.batch_size / total.seconds:.3g} images a second",
        f"machine: {measured.macs_per_s / 1e9:.1f} GMAC/s in a matrix product, {measured.bytes_per_s / 1e9:.1f} GB/s "
        "in a copy",
        f"floor: {floor * 1e3:.1f} ms at these rates, {floor / total.seconds:.0%} of the time taken",
    ]


def _document(job: Any, measured: Any) -> Dict[str, Any]:
    def row(one: Any) -> Dict[str, Any]:
        return {
            "backward_ms": one.backward_s * 1e3, "bytes": one.bytes, "forward_ms": one.forward_s * 1e3,
            "layers": one.layers, "macs": one.macs, "name": one.name, "of_machine": measured.of_machine(one),
            "type": one.type,
        }

    return {
        "backward": job.backward,
        "batch_size": job.batch_size,
        "floor_ms": measured.floor_s * 1e3,
        "iterations": job.iterations,
        "layers": [row(one) for one in measured.rows],
        "machine": {"bytes_per_s": measured.bytes_per_s, "macs_per_s": measured.macs_per_s},
        "total": row(measured.total),
        "types": [row(one) for one in measured.by_type()],
    }
