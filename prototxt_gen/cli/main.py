"""The root command: its two sections of help and its exit codes."""

from __future__ import annotations


def run() -> None:
    """Entry point of the console script."""
