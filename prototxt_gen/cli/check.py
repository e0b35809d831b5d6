"""``prototxt-gen check``: compare nets with the paper."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Dict, List, Optional, Tuple

import click

from prototxt_gen.cli.arguments import dialect_option, load_net
from prototxt_gen.core.dialects import find_dialect, in_full_schema
from prototxt_gen.core.errors import Error
from prototxt_gen.nets.configs import NETWORKS

PAPER_NETWORKS = [name for name, config in NETWORKS.items() if not config.reconstruction]


@click.command("check", short_help="Compare nets with the paper.")
@click.argument("nets", metavar="NET...", nargs=-1, required=True)
@click.option("--paper", is_flag=True, help="Table 2 of the paper row by row, and the published file layer by layer.")
@click.option("--as", "network", type=click.Choice(PAPER_NETWORKS),
              help="What NET means to be.  [default: by its name]")
@dialect_option()
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def check(nets: Tuple[str, ...], paper: bool, network: Optional[str], dialect: str, as_json: bool) -> int:
    """Compare nets with the paper; exit 1 if one fails.

    NET is a prototxt, a caffemodel, - or a network's name; it is looked at with one image of 224x224. Where the
    authors' own file does not meet what the paper prints, the row says so with both numbers and does not fail.
    """
    from prototxt_gen.check.paper import FAIL, check_paper, which_network

    if not paper:
        raise Error("nothing to check against", hint="check NET --paper")
    results: Dict[str, List[Any]] = {}
    for net in nets:
        message = in_full_schema(load_net(net, dialect=find_dialect(dialect)).net)
        results[net] = check_paper(message, which_network(message, network, net), net)
    failed = [net for net, rows in results.items() if any(row.verdict == FAIL for row in rows)]
    if as_json:
        document = {net: [dataclasses.asdict(row) for row in rows] for net, rows in results.items()}
        click.echo(json.dumps(document, indent=2, sort_keys=True))
    else:
        for net, rows in results.items():
            click.echo(f"{net}: {'FAIL' if net in failed else 'agrees with the paper and the published file'}")
            click.echo(_table(rows))
    return 1 if failed else 0


def _table(rows: List[Any]) -> str:
    table = [("", "paper", "net", "")] + [(row.what, row.paper, row.net, row.verdict) for row in rows]
    widths = [max(len(line[column]) for line in table) for column in range(3)]
    return "\n".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, [*widths, 0])).rstrip() for line in table)
