"""The commands."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Annotated

import typer

from mirror.cli.bundles import add_carrying
from mirror.cli.client_config import add_clients
from mirror.cli.doctor import add_doctor
from mirror.cli.environment import check_variables
from mirror.cli.images import add_keeping
from mirror.cli.options import failures_told
from mirror.cli.programs import Programs
from mirror.cli.serve import add_serving
from mirror.cli.warm import add_warming


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"mirror {version('oci-mirror')}")
        raise typer.Exit


_Version = Annotated[
    bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say which version this is.")
]


def command_line(programs: Programs) -> typer.Typer:
    """The program's commands."""
    app = typer.Typer(name="mirror", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

    @app.callback()
    def _root(_: _Version = False) -> None:
        """A pull-through caching mirror for OCI and Docker registries."""
        with failures_told():
            check_variables(os.environ)

    add_serving(app, programs)
    add_warming(app, programs)
    add_carrying(app, programs)
    add_keeping(app, programs)
    add_clients(app)
    add_doctor(app, programs)
    return app
