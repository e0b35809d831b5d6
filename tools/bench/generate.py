#!/usr/bin/env python3
"""CPU seconds of generating Attention-56, cold: this tool beside pycaffe's NetSpec building the same net.

Whole processes in turn, user and system time of the child; the median of each and of the ratios, pair by pair.
Needs a built Caffe: prototxt-gen caffe build.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Optional

import click
from bench_command import Bench

from prototxt_gen.train import caffe

OURS = [str(Path(sys.executable).with_name("prototxt-gen")), "attention56"]
# The same blocks and the same printing; pycaffe's NetSpec and messages in place of ours.
PYCAFFE = [sys.executable, "-c", """
import caffe.net_spec
from prototxt_gen.nets.builder import build
from prototxt_gen.nets.configs import NETWORKS
print(build(NETWORKS["attention56"], spec=caffe.net_spec).dumps(), end="")
"""]


def cpu_seconds(command: List[str], environment: Optional[Dict[str, str]] = None) -> float:
    """Run a command that answers yes or no; return the user and system seconds it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 1):
        raise click.ClickException(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-500:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@click.command(cls=Bench, help=__doc__)
@click.option("--pairs", type=click.IntRange(min=1), default=9, show_default=True)
def main(pairs: int) -> None:
    environment = {**caffe.child_environment(caffe.find()), "OPENBLAS_NUM_THREADS": "1"}
    cpu_seconds(OURS), cpu_seconds(PYCAFFE, environment)  # warm the file cache and the byte code
    rows = [(cpu_seconds(OURS), cpu_seconds(PYCAFFE, environment)) for _ in range(pairs)]
    for name, column in (("prototxt-gen attention56", 0), ("pycaffe NetSpec, same net", 1)):
        values = [row[column] for row in rows]
        click.echo(f"{name:28} median {statistics.median(values):.3f} s CPU  ({min(values):.3f} to {max(values):.3f})")
    ratios = [theirs / ours for ours, theirs in rows]
    spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
    click.echo(f"{'pycaffe / prototxt-gen':28} median {statistics.median(ratios):.2f}     {spread}")


if __name__ == "__main__":
    main()
