#!/usr/bin/env python3
"""CPU seconds of the commands that read a net, cold, on Attention-92: whole processes in turn, medians.

The last column is the time beside that of writing the net, from the same round.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import click
from bench_command import Bench
from generate import cpu_seconds

TOOL = str(Path(sys.executable).with_name("prototxt-gen"))


@click.command(cls=Bench, help=__doc__)
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True)
def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        net = str(Path(folder) / "attention92.prototxt")
        subprocess.run([TOOL, "attention92", "-o", net], check=True)
        commands = {
            "attention92": ["attention92"],
            "summary": ["summary", net],
            "summary --memory": ["summary", net, "--memory"],
            "check --paper": ["check", net, "--paper"],
            "lint": ["lint", net],
            "diff": ["diff", "attention92", net],
        }
        seconds = {name: [] for name in commands}
        for round_ in range(-1, rounds):  # the first round warms the file cache
            for name, arguments in commands.items():
                taken = cpu_seconds([TOOL, *arguments])
                if round_ >= 0:
                    seconds[name].append(taken)
    for name, taken in seconds.items():
        ratio = statistics.median(one / base for one, base in zip(taken, seconds["attention92"]))
        spread = f"({min(taken):.3f} to {max(taken):.3f})"
        click.echo(f"{name:18} median {statistics.median(taken):.3f} s CPU  {spread}  {ratio:.2f} x writing it")


if __name__ == "__main__":
    main()
