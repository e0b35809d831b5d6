"""What the benches' commands share: what goes wrong is told as prototxt-gen tells it, with exit code 2."""

import subprocess
from typing import Optional

import click

from prototxt_gen.core.errors import Error


class Bench(click.Command):
    """A click.Command that turns our errors into messages."""

    def invoke(self, context: click.Context) -> None:
        try:
            super().invoke(context)
        except Error as error:
            click.echo(f"error: {error}", err=True)
            context.exit(2)


def with_torch(context: click.Context, option: click.Parameter, python: Optional[str]) -> Optional[str]:
    """Refuse a Python without PyTorch: a callback of options."""
    if python is not None:
        try:
            done = subprocess.run([python, "-c", "import torch"], capture_output=True, text=True)
        except OSError as error:
            raise click.BadParameter(f"'{python}' does not run: {error.strerror}") from None
        if done.returncode != 0:
            said = (done.stderr.strip() or "it says nothing").splitlines()[-1]
            raise click.BadParameter(f"'{python}' cannot import torch: {said}")
    return python
