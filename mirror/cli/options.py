"""Options that several commands share, exit statuses, and how a command reports failures and stops on signals.

Imported by every command, `mirror --help` included: see `mirror.cli` for what it may import.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Concatenate

import click

from mirror.errors import MirrorError

INCOMPLETE, UNUSABLE, INTERRUPTED = 1, 2, 130
"""Exit statuses: the command ran but not everything is good; it could not run; it was stopped."""

CONTINUES = "run the same command again: content that is in the cache is skipped"
"""The hint after Ctrl-C for commands that fill the cache."""


def _directory(text: str) -> Path:
    if not text:
        raise click.BadParameter("it is empty; name a directory")
    return Path(text)


FILE = click.Path(path_type=Path, readable=False)
"""A path; whether it can be read is checked where it is opened."""

config_option = click.option(
    "--config",
    type=FILE,
    metavar="FILE",
    envvar="MIRROR_CONFIG",
    show_envvar=True,
    help="Configuration file (TOML); config/mirror.toml lists every key.",
)
listen_option = click.option(
    "--listen",
    metavar="HOST:PORT",
    envvar="MIRROR_LISTEN",
    show_envvar=True,
    help="Address to listen on (default: 127.0.0.1:5000).",
)
cache_option = click.option(
    "--cache",
    type=_directory,
    metavar="DIR",
    envvar="MIRROR_CACHE",
    show_envvar=True,
    help="Cache directory (default: ~/.cache/mirror).",
)
max_size_option = click.option(
    "--max-size",
    metavar="SIZE",
    envvar="MIRROR_MAX_SIZE",
    show_envvar=True,
    help="Maximum size of the cache (default: 50GiB).",
)
upstream_option = click.option(
    "--upstream",
    "upstreams",
    multiple=True,
    metavar="NAME=URL",
    envvar="MIRROR_UPSTREAM",
    show_envvar=True,
    help="Add an upstream registry, or change the URL of one; repeatable.",
)
offline_option = click.option(
    "--offline/--online",
    default=None,
    envvar="MIRROR_OFFLINE",
    show_envvar=True,
    help="Send no request to any upstream.",
)
log_format_option = click.option(
    "--log-format",
    metavar="json|console",
    envvar="MIRROR_LOG_FORMAT",
    show_envvar=True,
    help="Format of the log (default: console on a terminal, else json).",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
images_argument = click.argument("images", metavar="[IMAGE]...", nargs=-1)
from_option = click.option(
    "--from",
    "file",
    type=FILE,
    metavar="FILE",
    help="Read image names from a list (one per line), a Compose file, Kubernetes manifests, or a sync file (.toml).",
)


@dataclass(frozen=True, slots=True)
class MirrorOptions:
    """The options of a command that runs or examines a mirror: serve and doctor.

    Attributes:
        flags: values of flags by section and key of the settings; None for a flag that is not given.
    """

    config: Path | None
    flags: dict[str, Mapping[str, object]]
    upstreams: list[str]


def mirror_options(command: Callable[Concatenate[MirrorOptions, ...], None]) -> Callable[..., None]:
    """Decorate a command whose first parameter is a MirrorOptions with the options that describe a mirror."""

    @wraps(command)
    def run(
        config: Path | None,
        listen: str | None,
        cache: Path | None,
        max_size: str | None,
        upstreams: tuple[str, ...],
        offline: bool | None,
        **own: object,
    ) -> None:
        flags: dict[str, Mapping[str, object]] = {
            "server": {"listen": listen, "offline": offline},
            "cache": {"path": cache, "max_size": max_size},
        }
        command(MirrorOptions(config, flags, list(upstreams)), **own)

    decorated: Callable[..., None] = run
    for option in (offline_option, upstream_option, max_size_option, cache_option, listen_option, config_option):
        decorated = option(decorated)
    return decorated


@contextmanager
def print_failures(*, stopped: str = "run the command again") -> Iterator[None]:
    """Print why a command can't run, and exit with the status for it instead of a traceback.

    Args:
        stopped: the hint to print after Ctrl-C.
    """
    try:
        yield
    except MirrorError as error:
        click.echo(f"mirror: {error}", err=True)
        raise click.exceptions.Exit(UNUSABLE) from error
    except KeyboardInterrupt as stop:
        click.echo(f"mirror: stopped; {stopped}", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from stop


@contextmanager
def terminable() -> Iterator[None]:
    """Handle SIGTERM as Ctrl-C, so that temporary files are removed, and then end by that signal as usual."""
    terminated = False

    def stop(*_: object) -> None:
        nonlocal terminated
        terminated = True
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if terminated:
            signal.raise_signal(signal.SIGTERM)
