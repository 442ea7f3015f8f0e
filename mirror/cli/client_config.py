"""`mirror client-config`: print or write the configuration that makes a client use the mirror."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mirror.cli.options import INCOMPLETE, config_option, print_failures, upstream_option
from mirror.errors import ClientConfigurationInvalid, ConfigurationInvalid

if TYPE_CHECKING:
    from mirror.clients import Client, Mirrored
    from mirror.clients.file import ClientFile


def _client(_ctx: click.Context, _param: click.Parameter, name: str) -> str:
    from mirror.clients import CLIENT_NAMES

    if name not in CLIENT_NAMES:
        raise click.BadParameter(f"there is no client {name!r}; the clients are {', '.join(CLIENT_NAMES)}")
    return name


def _complete_client(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    from mirror.clients import CLIENT_NAMES

    return [name for name in CLIENT_NAMES if name.startswith(incomplete)]


def _root(text: str) -> Path:
    if not text:
        raise click.BadParameter("'' is not a directory")
    return Path(text)


_IRRELEVANT = {f"MIRROR_{name}" for name in ("LISTEN", "CACHE", "MAX_SIZE", "OFFLINE", "LOG_FORMAT")}
"""Variables that change nothing in a client's configuration once --mirror is given."""


@click.command("client-config")
@click.argument("client", metavar="CLIENT", callback=_client, shell_complete=_complete_client)
@click.option(
    "--mirror", metavar="URL", help="URL at which the client reaches the mirror (default: the listen address)."
)
@click.option("--write", is_flag=True, help="Write the file, merged with its present content.")
@click.option("--yes", "-y", is_flag=True, help="Write without asking.")
@click.option(
    "--root",
    type=_root,
    default="/",
    show_default=True,
    metavar="DIR",
    help="Write below this directory, such as an image's root.",
)
@config_option
@upstream_option
def client_config_command(
    client: str,
    mirror: str | None,
    write: bool,
    yes: bool,
    root: Path,
    config: Path | None,
    upstreams: tuple[str, ...],
) -> None:
    """Print or write the file that makes a client use the mirror.

    CLIENT is docker, containerd, podman (also for buildah, skopeo and CRI-O), buildkit, k3s, kaniko or kubernetes.

    Standard output gets the file's content; standard error its name and further steps. --write merges the file with its
    present content and keeps a backup beside it. A file that can't be parsed is not changed.

    Exit status: 0 done, 1 you declined to write, 2 the command failed; nothing is changed then.
    """
    with print_failures():
        from mirror.clients import load_client

        if not root.is_dir():
            raise ConfigurationInvalid(f"--root: {str(root)!r} is not a directory; name one")
        mirrored = _mirrored(mirror, config, list(upstreams))
        chosen = load_client(client)
        done = _write(chosen, mirrored, root, yes=yes) if write else _print(chosen, mirrored)
    if not done:
        raise click.exceptions.Exit(INCOMPLETE)


def _mirrored(url: str | None, config: Path | None, upstreams: list[str]) -> Mirrored:
    """Return the address and the upstreams that clients are configured with.

    The settings are read only if they matter: loading them takes longer than everything else in this command.

    Args:
        url: where clients reach the mirror; None for its listen address, seen from this machine.

    Raises:
        ConfigurationInvalid: if the URL or the settings are wrong.
    """
    from mirror.clients import Address, Mirrored
    from mirror.config.default_upstreams import DEFAULT_UPSTREAMS
    from mirror.oci.names import canonical_upstream

    variables = {name for name in os.environ if name.upper().startswith("MIRROR_")} - _IRRELEVANT
    if url is not None and config is None and not upstreams and not variables:
        return Mirrored(Address.parse(url), tuple(DEFAULT_UPSTREAMS))

    from mirror.cli.environment import settings_in_force

    settings = settings_in_force(config, {}, upstreams)
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
        click.echo(f"# {client.path}", err=True)
    sys.stdout.write(content)
    sys.stdout.flush()
    _advise(client, mirrored)
    if client.path is not None and Path(client.path).exists():
        click.echo(f"# {client.path} exists: --write merges this with its content", err=True)
    return True


def _write(client: Client, mirrored: Mirrored, root: Path, *, yes: bool) -> bool:
    if client.path is None:
        raise ConfigurationInvalid(f"{client.name} reads no file: leave out --write and use the output")
    from mirror.clients.file import ClientFile

    remaining, notes = _remaining(client, mirrored, root)
    file = ClientFile(root, client.path)
    existing = file.read()
    try:
        content = client.merged(existing, remaining)
    except ClientConfigurationInvalid as error:
        raise ClientConfigurationInvalid(f"{file.name} is not changed: {error}") from error
    for line in notes:
        click.echo(line, err=True)
    if content == existing:
        click.echo(f"{file.name} has this content already", err=True)
        return True
    if not yes and not _confirmed(file, existing, content):
        return False
    backup = file.write(content, instead_of=existing)
    click.echo(f"{file.name} is written" + (f"; its previous content is in {backup}" if backup else ""), err=True)
    _advise(client, mirrored)
    return True


def _remaining(client: Client, mirrored: Mirrored, root: Path) -> tuple[Mirrored, list[str]]:
    """Return *mirrored* without the upstreams that other files of the client configure, and a note for each of those.

    Raises:
        ClientConfigurationInvalid: if such a file can't be parsed.
    """
    from dataclasses import replace

    lines: list[str] = []
    names = set(mirrored.upstreams)
    for path, text in _other_files(client, root):
        try:
            configured = client.configured_registries(path, text) & names
        except ClientConfigurationInvalid as error:
            raise ClientConfigurationInvalid(f"{path}: {error}") from error
        names -= configured
        lines += [
            f"{path} already configures the registry {name}, so it is left out here: add the mirror to that file"
            for name in sorted(configured)
        ]
    return replace(mirrored, upstreams=tuple(name for name in mirrored.upstreams if name in names)), lines


def _other_files(client: Client, root: Path) -> Iterator[tuple[str, str]]:
    """Yield path and content of the other files from which the client reads registries."""
    from glob import glob

    from mirror.clients.file import ClientFile

    for pattern in client.other_files:
        for path in sorted(glob(pattern.lstrip("/"), root_dir=root)):
            text = ClientFile(root, path).read()
            if f"/{path}" != client.path and text is not None:
                yield str(root / path), text


def _confirmed(file: ClientFile, existing: str | None, content: str) -> bool:
    """Show the change, and ask on the terminal whether to write it."""
    from difflib import unified_diff

    if not sys.stdin.isatty():
        raise ConfigurationInvalid("--write asks before writing, and standard input is not a terminal: add --yes")
    before = [] if existing is None else existing.splitlines()
    for line in unified_diff(before, content.splitlines(), str(file.name), str(file.name), lineterm="", n=0):
        click.echo(line, err=True)
    return click.confirm(f"Write {file.name}?", err=True)


def _advise(client: Client, mirrored: Mirrored) -> None:
    for line in client.advice(mirrored):
        click.echo(f"# {line}", err=True)
