"""Options that several commands have, and how a command says that it can't."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from mirror.airgap.sync import names_in
from mirror.errors import ConfigurationInvalid, MirrorError

INCOMPLETE, UNUSABLE, INTERRUPTED = 1, 2, 130
"""Exit statuses: done, but not all of it is good; it could not be done; it was stopped."""


def _directory(text: str) -> Path:
    if not text:
        raise typer.BadParameter("it is empty; name a directory")
    return Path(text)


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Configuration (TOML); config/mirror.toml has every key.", envvar="MIRROR_CONFIG"
    ),
]
ListenOption = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Where to listen (default: 127.0.0.1:5000).", envvar="MIRROR_LISTEN"),
]
CacheOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        parser=_directory,
        help="Where to keep content (default: ~/.cache/mirror).",
        envvar="MIRROR_CACHE",
    ),
]
MaxSizeOption = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="How much content to keep (default: 50GiB).", envvar="MIRROR_MAX_SIZE"),
]
UpstreamOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=URL", help="An upstream registry; repeatable.", envvar="MIRROR_UPSTREAM"),
]
OfflineOption = Annotated[
    bool | None, typer.Option("--offline/--online", help="Never ask an upstream.", envvar="MIRROR_OFFLINE")
]
LogFormatOption = Annotated[
    str | None,
    typer.Option(
        metavar="json|console", help="How to log (default: console on a terminal).", envvar="MIRROR_LOG_FORMAT"
    ),
]

ImagesArgument = Annotated[list[str] | None, typer.Argument(metavar="IMAGE", show_default=False)]
FromOption = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="FILE",
        help="Images a line each, a Compose file, Kubernetes manifests, or a sync file (.toml).",
    ),
]


@contextmanager
def failures_told(*, stopped: str = "the same command goes on from here") -> Iterator[None]:
    """Says why a command can't run. Its status tells a supervisor that another try would end the same.

    Args:
        stopped: what is to be known by who pressed Ctrl-C.
    """
    try:
        yield
    except MirrorError as error:
        typer.secho(f"mirror: {error}", err=True)
        raise typer.Exit(UNUSABLE) from error
    except KeyboardInterrupt as stop:
        typer.secho(f"mirror: stopped; {stopped}", err=True)
        raise typer.Exit(INTERRUPTED) from stop


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM stops a command as Ctrl-C does: what it began is put away. Then it ends as by that signal, as ever."""
    asked = False

    def stop(*_: object) -> None:
        nonlocal asked
        asked = True
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if asked:
            signal.raise_signal(signal.SIGTERM)


def named(images: list[str] | None, file: Path | None) -> list[str]:
    """The images that the command line names.

    Raises:
        ConfigurationInvalid: none.
    """
    names = [*(images or []), *([] if file is None else names_in(file))]
    if not names:
        raise ConfigurationInvalid("name images, or a list of them with --from FILE")
    return list(dict.fromkeys(names))
