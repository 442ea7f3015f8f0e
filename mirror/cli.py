"""The commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from mirror.config import Settings, read_settings
from mirror.errors import MirrorError


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"mirror {version('oci-mirror')}")
        raise typer.Exit


_Version = Annotated[
    bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say which version this is.")
]
_Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Configuration (TOML); config/mirror.toml has every key.", envvar="MIRROR_CONFIG"
    ),
]
_Listen = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Where to listen (default: 127.0.0.1:5000).", envvar="MIRROR_LISTEN"),
]
_Cache = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where to keep content (default: ~/.cache/mirror).", envvar="MIRROR_CACHE"),
]
_MaxSize = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="How much content to keep (default: 50GiB).", envvar="MIRROR_MAX_SIZE"),
]
_Upstream = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=URL", help="An upstream registry; repeatable.", envvar="MIRROR_UPSTREAM"),
]
_Offline = Annotated[
    bool | None, typer.Option("--offline/--online", help="Never ask an upstream.", envvar="MIRROR_OFFLINE")
]
_LogFormat = Annotated[
    str | None,
    typer.Option(
        metavar="json|console", help="How to log (default: console on a terminal).", envvar="MIRROR_LOG_FORMAT"
    ),
]


def command_line(serve: Callable[[Settings], None]) -> typer.Typer:
    """The program's commands; *serve* is what `mirror serve` does with its settings."""
    app = typer.Typer(name="mirror", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

    @app.callback()
    def _root(_: _Version = False) -> None:
        """A pull-through caching mirror for OCI and Docker registries."""

    @app.command("serve")
    def _serve(
        config: _Config = None,
        listen: _Listen = None,
        cache: _Cache = None,
        max_size: _MaxSize = None,
        upstream: _Upstream = None,
        offline: _Offline = None,
        log_format: _LogFormat = None,
    ) -> None:
        """Serve pulls, from the cache or through it. Works without any configuration."""
        flags: dict[str, Mapping[str, object]] = {
            "server": {"listen": listen, "offline": offline},
            "cache": {"path": cache, "max_size": max_size},
            "log": {"format": log_format},
        }
        try:
            serve(read_settings(config, flags, upstream or []))
        except MirrorError as error:
            typer.secho(f"mirror: {error}", err=True)
            raise typer.Exit(2) from error

    return app
