"""Client check: whether docker, containerd and podman on this machine are configured to use the mirror."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from mirror.clients import Address, mentions
from mirror.clients.file import ClientFile
from mirror.config import Settings
from mirror.doctor.finding import Finding, ok, problem, warning
from mirror.errors import ClientConfigurationInvalid, ConfigurationInvalid


@dataclass(frozen=True, slots=True)
class _Client:
    """A container client that may be installed on this machine.

    Attributes:
        program: the executable that shows that it is installed.
        files: glob patterns of its configuration files about registries.
        after: the step that makes it load a changed file.
    """

    name: str
    program: str
    files: tuple[str, ...]
    after: str


_CLIENTS = (
    _Client("docker", "dockerd", ("etc/docker/daemon.json",), "systemctl reload docker"),
    _Client(
        "containerd",
        "containerd",
        ("etc/containerd/certs.d/*/hosts.toml", "etc/containerd/config.toml"),
        "check that config_path in /etc/containerd/config.toml is /etc/containerd/certs.d",
    ),
    _Client(
        "podman",
        "podman",
        ("etc/containers/registries.conf", "etc/containers/registries.conf.d/*.conf"),
        "pull again",
    ),
)
_CERTS = "/etc/containerd/certs.d"


def check_clients(settings: Settings, root: Path) -> list[Finding]:
    """Return a finding for each client with a configuration file below *root*, or, for `/`, an installed program."""
    try:
        address = Address.parse(settings.server.url)
    except ConfigurationInvalid:
        fix = "set server.listen to a host and one port"
        return [warning("clients", f"no client can be configured for a mirror at {settings.server.listen}", fix)]
    found = [_check(client, address, root) for client in _CLIENTS if _is_present(client, root)]
    return found or [ok("clients", f"neither docker nor containerd nor podman is on this machine ({root})")]


def _is_present(client: _Client, root: Path) -> bool:
    return bool(_paths(client, root)) or (root == Path("/") and shutil.which(client.program) is not None)


def _paths(client: _Client, root: Path) -> list[str]:
    return [path for pattern in client.files for path in sorted(glob(pattern, root_dir=root))]


def _check(client: _Client, address: Address, root: Path) -> Finding:
    naming: list[str] = []
    for path in _paths(client, root):
        try:
            text = ClientFile(root, path).read() or ""
        except ClientConfigurationInvalid as error:
            if isinstance(error.__cause__, PermissionError):
                return warning(client.name, str(error), "run mirror doctor as root: this user can't read the file")
            return warning(client.name, str(error), "correct the file, then run mirror doctor again")
        try:
            if mentions(text, address):
                naming.append(str(root / path))
        except ClientConfigurationInvalid as error:
            return problem(client.name, f"{root / path}: {error}", f"correct it: {client.name} can't read it either")
    if not naming:
        below = "" if root == Path("/") else f" --root {root}"
        fix = f"mirror client-config {client.name} --mirror {address.url} --write{below}, then {client.after}"
        return warning(client.name, f"does not use the mirror at {address.url}", fix)
    if client.name == "containerd" and not _reads_hosts(naming, root):
        message = f"{naming[0]} names the mirror, but containerd's CRI plugin (Kubernetes) does not read that file"
        fix = (
            f'set config_path = "{_CERTS}" in the CRI registry section of /etc/containerd/config.toml, then restart it'
        )
        return warning(client.name, message, fix)
    return ok(client.name, f"uses the mirror at {address.url} ({', '.join(naming)})")


def _reads_hosts(naming: list[str], root: Path) -> bool:
    """Return whether containerd's config.toml names the directory of the hosts.toml files, or the mirror itself."""
    configuration = root / "etc/containerd/config.toml"
    return str(configuration) in naming or _CERTS in (ClientFile(root, "/etc/containerd/config.toml").read() or "")
