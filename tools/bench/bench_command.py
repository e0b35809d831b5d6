"""The command of a bench: what goes wrong is told as prototxt-gen tells it, with exit code 2."""

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
