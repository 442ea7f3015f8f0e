"""`mirror client-config`: what makes a client use the mirror, printed or put in place."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from difflib import unified_diff
from glob import glob
from pathlib import Path
from typing import Annotated

import typer

from mirror.cli.options import ConfigOption, UpstreamOption, failures_told
from mirror.clients import CLIENTS, Address, Client, Mirrored
from mirror.clients.file import ClientFile
from mirror.config import Settings, read_settings
from mirror.errors import ClientConfigurationInvalid, ConfigurationInvalid
from mirror.oci.names import canonical_upstream


def _client(name: str) -> Client:
    if name not in CLIENTS:
        raise typer.BadParameter(f"there is nothing for {name!r}; known are {', '.join(CLIENTS)}")
    return CLIENTS[name]


def _root(text: str) -> Path:
    if not text:
        raise typer.BadParameter("'' is no directory")
    return Path(text)


_Name = Annotated[Client, typer.Argument(metavar="CLIENT", parser=_client, show_default=False)]
_Mirror = Annotated[
    str | None,
    typer.Option("--mirror", metavar="URL", help="The mirror, as the client reaches it (default: where it listens)."),
]
_Write = Annotated[bool, typer.Option("--write", help="Write the file, merged with what it says now.")]
_Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask before writing.")]
_Root = Annotated[
    Path, typer.Option(metavar="DIR", parser=_root, help="Write below this directory, such as an image's root.")
]


def add_clients(app: typer.Typer) -> None:
    """Adds the command to *app*."""

    @app.command("client-config")
    def _client_config(
        client: _Name,
        mirror: _Mirror = None,
        write: _Write = False,
        yes: _Yes = False,
        root: _Root = Path("/"),
        config: ConfigOption = None,
        upstream: UpstreamOption = None,
    ) -> None:
        """Print the file that makes a client use the mirror, or write it.

        CLIENT is docker, containerd, podman (also for buildah, skopeo and CRI-O), buildkit, k3s, kaniko or kubernetes.

        The file goes to standard output; its name, and what else there is to do, to standard error. --write merges it
        with what is there, and keeps a copy of that beside it. A file that can't be understood stays as it is.

        Exit status: 0 done, 1 nothing was written because you said no, 2 it could not be done; then nothing is changed.
        """
        with failures_told():
            if not root.is_dir():
                raise ConfigurationInvalid(f"--root: {str(root)!r} is no directory")
            mirrored = mirrored_by(read_settings(config, {}, upstream or []), mirror)
            done = _write(client, mirrored, root, yes=yes) if write else _print(client, mirrored)
        if not done:
            raise typer.Exit(1)


def mirrored_by(settings: Settings, url: str | None) -> Mirrored:
    """What clients are told of a mirror with these settings.

    Args:
        url: where they reach it; None for where it listens, seen from this machine.

    Raises:
        ConfigurationInvalid: *url* is no address.
    """
    default = settings.default_upstream
    return Mirrored(
        Address.parse(settings.server.url if url is None else url),
        tuple(map(canonical_upstream, settings.upstreams)),
        default=None if default is None else canonical_upstream(default),
        has_users=settings.clients.users_file is not None,
    )


def _print(client: Client, mirrored: Mirrored) -> bool:
    content = client.merged(None, mirrored)
    if client.path is not None:
        typer.echo(f"# {client.path}", err=True)
    sys.stdout.write(content)
    sys.stdout.flush()
    _advise(client, mirrored)
    if client.path is not None and Path(client.path).exists():
        typer.echo(f"# {client.path} is there already: --write merges this with what it says", err=True)
    return True


def _write(client: Client, mirrored: Mirrored, root: Path, *, yes: bool) -> bool:
    if client.path is None:
        raise ConfigurationInvalid(f"{client.name} reads no file: leave --write away, and use what is printed")
    left, decided = _left_to(client, mirrored, root)
    place = ClientFile(root, client.path)
    existing = place.read()
    try:
        content = client.merged(existing, left)
    except ClientConfigurationInvalid as error:
        raise ClientConfigurationInvalid(f"{place.name} stays as it is: {error}") from error
    for line in decided:
        typer.echo(line, err=True)
    if content == existing:
        typer.echo(f"{place.name} says so already", err=True)
        return True
    if not yes and not _agreed(place, existing, content):
        return False
    backup = place.write(content, instead_of=existing)
    typer.echo(f"{place.name} is written" + (f"; what it said is in {backup}" if backup else ""), err=True)
    _advise(client, mirrored)
    return True


def _left_to(client: Client, mirrored: Mirrored, root: Path) -> tuple[Mirrored, list[str]]:
    """What is left to say where other files have the last word on some registries, and a line for each of those."""
    lines: list[str] = []
    names = set(mirrored.upstreams)
    for path, text in _beside(client, root):
        try:
            decided = client.decided(path, text) & names
        except ClientConfigurationInvalid as error:
            raise ClientConfigurationInvalid(f"{path}: {error}") from error
        names -= decided
        lines += [f"{path} decides about {name}: add the mirror to it by hand" for name in sorted(decided)]
    return replace(mirrored, upstreams=tuple(name for name in mirrored.upstreams if name in names)), lines


def _beside(client: Client, root: Path) -> Iterator[tuple[str, str]]:
    for pattern in client.beside:
        for path in sorted(glob(pattern.lstrip("/"), root_dir=root)):
            text = ClientFile(root, path).read()
            if f"/{path}" != client.path and text is not None:
                yield str(root / path), text


def _agreed(place: ClientFile, existing: str | None, content: str) -> bool:
    if not sys.stdin.isatty():
        raise ConfigurationInvalid("--write asks first, and there is no terminal to ask on: add --yes")
    before = [] if existing is None else existing.splitlines()
    for line in unified_diff(before, content.splitlines(), str(place.name), str(place.name), lineterm="", n=0):
        typer.echo(line, err=True)
    return typer.confirm(f"Write {place.name}?", err=True)


def _advise(client: Client, mirrored: Mirrored) -> None:
    for line in client.advice(mirrored):
        typer.echo(f"# {line}", err=True)
