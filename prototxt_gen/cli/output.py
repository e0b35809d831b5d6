"""Where a generated text goes: standard output, a file, or a comparison with a file."""

from __future__ import annotations

import difflib
import sys
from typing import Any, Callable, Optional

import click

from prototxt_gen.core.errors import Error
from prototxt_gen.core.io import display_name, read_text, write_text


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``-o``, ``--check`` and ``--diff`` to a command that generates a text."""
    for option in (
        click.option("--diff", metavar="FILE",
                     help="Show how FILE differs from what would be written; exit 1 if it does."),
        click.option("--check", metavar="FILE", help="Write nothing; exit 1 if FILE is not what would be written."),
        click.option("-o", "--output", metavar="FILE", help="Write to FILE, whole or not at all."),
    ):
        command = option(command)
    return command


def deliver(text: str, output: Optional[str], check: Optional[str], diff: Optional[str], maker: str) -> int:
    """Write ``text`` or compare it, as the output options say; return the exit code. ``maker`` names who makes it."""
    if sum(option is not None for option in (output, check, diff)) > 1:
        raise Error("-o, --check and --diff exclude one another")
    if check is not None:
        current = read_text(check) == text
        verdict = "current" if current else f"not what {maker} writes; --diff shows how"
        click.echo(f"{display_name(check)} is {verdict}", err=True)
        return 0 if current else 1
    if diff is not None:
        return compare_output(read_text(diff), text, display_name(diff), maker)
    if output is None or output == "-":
        write_stdout(text)
    else:
        write_text(output, text)
    return 0


def write_stdout(text: str) -> None:
    """Write all of a text to standard output."""
    write_stdout_bytes(text.encode())


def write_stdout_bytes(data: bytes) -> None:
    """Write all of ``data`` to standard output.

    With PYTHONUNBUFFERED set, Python's own ``write`` gives up silently after a partial write, as on a full disk.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[sys.stdout.buffer.write(rest):]


def compare_output(old: str, new: str, old_name: str, new_name: str) -> int:
    """Print a unified diff and return 1, or print nothing and return 0 when the texts are equal."""
    lines = list(difflib.unified_diff(old.splitlines(True), new.splitlines(True), old_name, new_name))
    write_stdout("".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines))
    return 1 if lines else 0
