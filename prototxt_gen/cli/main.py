"""The root command: networks and commands in two sections of help, errors as text, exit codes.

0 done or yes; 1 the answer is no; 2 no answer; 3 Caffe ran and failed; 130 interrupted; 141 the reader went away.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import Any, List, Optional, Tuple

import click

from prototxt_gen import __version__
from prototxt_gen.core.errors import Error, did_you_mean
from prototxt_gen.nets.configs import NETWORKS

# Imported when called for: a network is generated without loading what trains it.
COMMANDS = {
    "list": "prototxt_gen.cli.network:list_networks",
    "summary": "prototxt_gen.cli.summary:summary",
    "check": "prototxt_gen.cli.check:check",
    "lint": "prototxt_gen.cli.lint:lint",
    "explain": "prototxt_gen.cli.lint:explain",
    "diff": "prototxt_gen.cli.diff:diff",
    "convert": "prototxt_gen.cli.convert:convert",
    "export": "prototxt_gen.cli.export:export",
    "compare": "prototxt_gen.cli.compare:compare",
    "solver": "prototxt_gen.cli.solver:solver",
    "data": "prototxt_gen.cli.data:data",
    "recipe": "prototxt_gen.cli.recipe:recipe",
    "train": "prototxt_gen.cli.train:train",
    "log": "prototxt_gen.cli.log:log",
    "test": "prototxt_gen.cli.test:test",
    "time": "prototxt_gen.cli.time:time",
    "caffe": "prototxt_gen.cli.caffe:caffe",
}


SHOWN_AROUND = 20  # characters


class Root(click.Group):
    """Every network is a command beside the commands proper."""

    def list_commands(self, ctx: click.Context) -> List[str]:
        return [*NETWORKS, *COMMANDS]

    def get_command(self, ctx: click.Context, name: str) -> Optional[click.Command]:
        if name in NETWORKS:
            from prototxt_gen.cli.network import network_command

            return network_command(name)
        if name in COMMANDS:
            module, _, attribute = COMMANDS[name].partition(":")
            return getattr(importlib.import_module(module), attribute)
        return None

    def resolve_command(self, ctx: click.Context, args: List[str]) -> Tuple[Any, Any, List[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            hint = did_you_mean(name, self.list_commands(ctx), "prototxt-gen --help lists them")
            raise Error(f"no network or command is called '{name}'", hint=hint)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except BrokenPipeError:
            # Caught before click makes it exit code 1.
            raise click.exceptions.Exit(128 + signal.SIGPIPE) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in (("Networks", NETWORKS), ("Commands", COMMANDS)):
            commands = [(name, self.get_command(ctx, name)) for name in names]
            with formatter.section(title):
                formatter.write_dl([(name, command.get_short_help_str(64)) for name, command in commands if command])


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="prototxt-gen")
def root() -> None:
    """Generate Caffe prototxts of the Residual Attention Networks, build Caffe, train.

    A network's name writes its training net to standard output:

        prototxt-gen attention56 > train.prototxt
    """


def run() -> None:
    """Entry point of the console script: every ending of a command as an exit code."""
    code = _run()
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except OSError:
        # Python flushes once more on its way out; what is left has nowhere to go but here.
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)


def _run() -> int:
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")
    if sys.stdout is None:
        click.echo("error: standard output is closed", err=True)
        return 2
    try:
        result = root.main(standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        return _tell(error.message, error.exit_code, error)
    except Error as error:
        return _tell(str(error), error.exit_code)
    except UnicodeEncodeError as error:
        # Bytes of an argument that are no text stand in it as surrogates, which no file of ours can hold.
        near = error.object[max(0, error.start - SHOWN_AROUND):error.end + SHOWN_AROUND]
        shown = near.encode("ascii", "backslashreplace").decode()
        return _tell(f"a name holds bytes that are not UTF-8: '{shown}'\nhint: name it otherwise", 2)
    except (KeyboardInterrupt, click.Abort):
        return _tell("", 128 + signal.SIGINT)
    except BrokenPipeError:
        return 128 + signal.SIGPIPE
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _tell(f"{place}{error.strerror or error}", 2)


def _tell(text: str, code: int, usage: Optional[click.ClickException] = None) -> int:
    """Say on stderr why a command ended, where that can still be heard, and return the exit code."""
    try:
        if usage is not None:
            usage.show()
        else:
            click.echo(f"error: {text}" if text else "interrupted", err=True)
    except OSError:
        pass
    return code
