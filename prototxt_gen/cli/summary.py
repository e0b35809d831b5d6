"""``prototxt-gen summary``: layers, shapes, parameters and multiply-adds of a net."""

from __future__ import annotations

import csv
import io
import json
from typing import Any, Dict, List, Mapping, Optional, Tuple

import click

from prototxt_gen.cli.arguments import dialect_option, input_shapes, load_net
from prototxt_gen.cli.output import write_stdout
from prototxt_gen.core.dialects import find_dialect, in_full_schema
from prototxt_gen.core.errors import Error
from prototxt_gen.core.graph import PHASES

WIDTH = 80
MOST_ITEMS = 2**31 - 1  # Caffe counts so far
MOST_GIB = 2**20


@click.command("summary", short_help="Layers, shapes, parameters and multiply-adds of a net.")
@click.argument("net", metavar="NET")
@click.option("--phase", type=click.Choice(list(PHASES)), help="[default: train, or test for a net without a loss]")
@click.option("--depth", type=click.IntRange(min=0), default=1, show_default=True, metavar="N",
              help="Group layers by the first N parts of their names; 0 shows every layer.")
@click.option("--input", "inputs", multiple=True, metavar="BLOB=N,C,H,W",
              help="Shape of a blob that the net does not tell.")
@click.option("--stage", "stages", multiple=True, metavar="STAGE", help="A stage of the net state. May be repeated.")
@click.option("--allow-unknown", is_flag=True, help="Leave gaps at layer types without a rule.")
@click.option("--memory", "show_memory", is_flag=True,
              help="Show what a training step (TEST: a forward pass) allocates.")
@click.option("--shared", "sharing", flag_value="shared", help="With --memory: as train has it on the CPU.")
@click.option("--lean", "sharing", flag_value="lean", help="With --memory: as train --memory lean has it.")
@click.option("--batch", type=click.IntRange(1, MOST_ITEMS), metavar="N", help="With this many items in a batch.")
@click.option("--gpu-gib", type=float, metavar="G", help="Also the largest batch that fits into G GiB.")
@click.option("--solver", "solver_type", default="Nesterov", show_default=True, metavar="TYPE",
              help="Solver type, for the history it keeps.")
@dialect_option()
@click.option("--csv", "as_csv", is_flag=True, help="One line per layer or group, with commas.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document: every layer, blob and parameter.")
def summary(
    net: str, phase: Optional[str], depth: int, inputs: Tuple[str, ...], stages: Tuple[str, ...], allow_unknown: bool,
    show_memory: bool, sharing: Optional[str], batch: Optional[int], gpu_gib: Optional[float], solver_type: str,
    dialect: str, as_csv: bool, as_json: bool,
) -> None:
    """Show what a net is made of, without running it.

    NET is a prototxt, a caffemodel, - or a network's name. Parameters are counted both ways: learnable values, and the
    statistics that BN and BatchNorm keep. MACs are the multiply-adds of convolutions and matrix products in one forward
    pass of the batch.
    """
    from prototxt_gen.check.summary import summary_document, summary_rows
    from prototxt_gen.spec.infer import infer
    from prototxt_gen.spec.lean import LEAN, PLAIN, SHARED
    from prototxt_gen.spec.memory import largest_batch, memory, with_batch
    from prototxt_gen.spec.rules import CAFFE, OWN

    if gpu_gib is not None and not 0 < gpu_gib < MOST_GIB:
        raise Error(f"--gpu-gib {gpu_gib:g} is no amount of memory")
    if as_csv and as_json:
        raise Error("--csv and --json exclude one another")
    if as_csv and (show_memory or gpu_gib):
        raise Error("--csv has no column for memory", hint="--json has it, too")
    # In the full schema, because what counts memory and batches reads fields that some forks lack.
    proto = in_full_schema(load_net(net, dialect=find_dialect(dialect)).net)
    at_phase = PHASES[phase] if phase else default_phase(proto)
    options = dict(given=input_shapes(inputs), stages=stages, allow_unknown=allow_unknown, where=net)
    info = infer(with_batch(proto, batch) if batch else proto, at_phase, **options)
    if sharing and not (show_memory or gpu_gib):
        raise Error(f"--{sharing} is about memory", hint=f"--memory --{sharing}")
    sharing = sharing or PLAIN
    need = memory(info, solver_type, sharing) if show_memory or gpu_gib else None
    fits = largest_batch(proto, int(gpu_gib * 2**30), at_phase, solver_type, sharing, **options) if gpu_gib else None
    if as_json:
        document = summary_document(info)
        if need:
            document["memory"] = {
                **need.by_purpose(), "total": need.total, "resident on the CPU": need.held(OWN),
                "resident on the CPU with Caffe's engines": need.held(CAFFE), "BN buffers of the fork": need.fork_bn,
            }
        if fits is not None:
            document["largest batch"] = fits
        click.echo(json.dumps(document, indent=2, sort_keys=True))
        return
    rows = summary_rows(info, depth)
    if as_csv:
        write_stdout(_csv(rows))
        return
    text = _text(info, rows)
    if need:
        others = {word: memory(info, solver_type, word).total for word in (SHARED, LEAN) if sharing == PLAIN}
        text += "\n" + "\n".join(_memory_lines(info, need, others)) + "\n"
    if fits is not None:
        text += f"\nlargest batch in {gpu_gib:g} GiB: {fits}\n"
    write_stdout(text)


def default_phase(net: Any) -> int:
    """Return TRAIN for a net that has a loss there, else TEST."""
    from prototxt_gen.core.graph import TEST, TRAIN, layers_in, net_state

    trains = any(layer.type.endswith("Loss") for layer in layers_in(net, net_state(TRAIN, net)))
    return TRAIN if trains else TEST


def _csv(rows: List[Any]) -> str:
    from prototxt_gen.spec.infer import format_shape

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["name", "type", "shape", "learnable", "statistics", "macs"])
    for row in rows:
        shape = format_shape(row.shape) if row.shape is not None else ""
        writer.writerow([row.name, row.type, shape, row.learnable, row.statistics, row.macs])
    return out.getvalue()


def _text(info: Any, rows: List[Any]) -> str:
    from prototxt_gen.check.summary import own_layers, types_text
    from prototxt_gen.spec.infer import format_shape

    phase = next(name for name, value in PHASES.items() if value == info.phase).upper()
    own = len(own_layers(info))
    lines = [f"{info.name or '(no name)'}, {phase}: {own} layers, {len(info.layers) - own} Splits inserted by Caffe"]
    # A count stays on the line of its type: the wrapping knows no-break spaces for letters.
    counts = types_text(info).replace(" ", "\u00a0").replace(",\u00a0", ", ")
    lines += click.wrap_text(counts, WIDTH).replace("\u00a0", " ").splitlines()
    table = [("layer", "type", "output", "parameters", "MACs")]
    for row in rows:
        shape = format_shape(row.shape) if row.shape is not None else ""
        table.append((row.name, row.type, shape, _count(row.learnable + row.statistics), _count(row.macs)))
    lines += ["", *_columns(table), "", *_totals(info)]
    return "\n".join(lines) + "\n"


def _columns(table: List[Tuple[str, ...]]) -> List[str]:
    """Align columns, the last two to the right; a long name is cut in the middle so that a line keeps to 80 columns."""
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    widths[0] = min(widths[0], max(20, WIDTH - sum(widths[1:]) - 2 * (len(widths) - 1)))
    lines = []
    for line in table:
        cells = [_shortened(line[0], widths[0]), *line[1:]]
        cells = [cell.rjust(width) if column >= 3 else cell.ljust(width)
                 for column, (cell, width) in enumerate(zip(cells, widths))]
        lines.append("  ".join(cells).rstrip())
    return lines


def _shortened(name: str, width: int) -> str:
    if len(name) <= width:
        return name
    head = (width - 1) // 3
    return f"{name[:head]}~{name[len(name) - (width - 1 - head):]}"


def _count(value: int) -> str:
    """Return a number as people read it: three digits and a unit."""
    if not value:
        return "-"
    for unit, scale in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= scale:
            scaled = value / scale
            return f"{scaled:.{2 if scaled < 10 else 1 if scaled < 100 else 0}f} {unit}"
    return str(value)


def _totals(info: Any) -> List[str]:
    total = info.learnable + info.statistics
    figures: Dict[str, int] = {
        "learnable parameters": info.learnable,
        "statistics of BN": info.statistics,
        "parameters with statistics": total,
        "multiply-adds": info.macs,
    }
    if not info.statistics:
        figures = {"parameters": total, "multiply-adds": info.macs}
    lines = [f"{name:28}{value:>18,}".replace(",", " ") for name, value in figures.items()]
    if info.unknown:
        names = ", ".join(sorted({layer.type for layer in info.unknown}))
        lines.append(f"{len(info.unknown)} layers are not counted: no rule for them or for what they read ({names})")
    return lines


def _memory_lines(info: Any, need: Any, others: Mapping[str, int]) -> List[str]:
    """Return what Caffe allocates, part by part; memory of CUDA, of libraries and of a test net comes on top.

    ``others`` holds what is allocated where blobs share memory.
    """
    from prototxt_gen.core.graph import TRAIN
    from prototxt_gen.spec.rules import CAFFE, OWN

    step = "a training step" if info.phase == TRAIN else "a forward pass"
    lines = [f"memory of {step}"]
    parts = [(name, value) for name, value in need.by_purpose().items() if value]
    for name, value in [*parts, ("total", need.total)]:
        lines.append(f"  {name:26}{value / 2**20:>12.1f} MiB")
    here, caffes = (need.held(place) for place in (OWN, CAFFE))
    if here != need.total:
        other = f", {caffes / 2**20:.1f} with Caffe's" if caffes != here else ""
        lines.append(f"  (on the CPU {here / 2**20:.1f} MiB with our own engines{other})")
    for word, total in others.items() if info.phase == TRAIN else ():
        lines.append(f"  (train --memory {word} needs {total / 2**20:.1f} MiB; --{word} shows it)")
    if need.fork_bn and others:
        lines.append(f"  (BN of the authors' fork would keep {need.fork_bn / 2**20:.1f} MiB more)")
    return lines
