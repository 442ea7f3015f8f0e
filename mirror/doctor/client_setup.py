"""The clients of this machine: whether what they read names the mirror."""

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
class _Local:
    """A client that may be installed here.

    Attributes:
        program: what is found where it is.
        files: patterns of what it reads about registries.
        after: what has to happen for it to read them anew.
    """

    name: str
    program: str
    files: tuple[str, ...]
    after: str


_LOCALS = (
    _Local("docker", "dockerd", ("etc/docker/daemon.json",), "systemctl reload docker"),
    _Local(
        "containerd",
        "containerd",
        ("etc/containerd/certs.d/*/hosts.toml", "etc/containerd/config.toml"),
        "see that config_path in /etc/containerd/config.toml is /etc/containerd/certs.d",
    ),
    _Local(
        "podman",
        "podman",
        ("etc/containers/registries.conf", "etc/containers/registries.conf.d/*.conf"),
        "pull again",
    ),
)
_CERTS = "/etc/containerd/certs.d"


def examine_clients(settings: Settings, root: Path) -> list[Finding]:
    """A finding for each client that is here: for /, if its program is; elsewhere, if one of its files is."""
    try:
        address = Address.parse(settings.server.url)
    except ConfigurationInvalid:
        cure = "set server.listen to a host and one port"
        return [warning("clients", f"none can be told to use a mirror at {settings.server.listen}", cure)]
    found = [_examine(client, address, root) for client in _LOCALS if _is_here(client, root)]
    return found or [ok("clients", f"neither docker nor containerd nor podman is on this machine ({root})")]


def _is_here(client: _Local, root: Path) -> bool:
    return bool(_paths(client, root)) or (root == Path("/") and shutil.which(client.program) is not None)


def _paths(client: _Local, root: Path) -> list[str]:
    return [path for pattern in client.files for path in sorted(glob(pattern, root_dir=root))]


def _examine(client: _Local, address: Address, root: Path) -> Finding:
    naming: list[str] = []
    for path in _paths(client, root):
        try:
            text = ClientFile(root, path).read() or ""
        except ClientConfigurationInvalid as error:
            return warning(client.name, str(error), "run the doctor as root: this user can't tell")
        try:
            if mentions(text, address):
                naming.append(str(root / path))
        except ClientConfigurationInvalid as error:
            return problem(client.name, f"{root / path}: {error}", f"mend it: {client.name} can't read it either")
    if not naming:
        below = "" if root == Path("/") else f" --root {root}"
        cure = f"mirror client-config {client.name} --mirror {address.url} --write{below}, then {client.after}"
        return warning(client.name, f"does not use the mirror at {address.url}", cure)
    if client.name == "containerd" and not _reads_hosts(naming, root):
        says = f"{naming[0]} names the mirror, but Kubernetes' side of containerd does not read it"
        cure = f'set config_path = "{_CERTS}" below the CRI registry in /etc/containerd/config.toml, then restart it'
        return warning(client.name, says, cure)
    return ok(client.name, f"uses the mirror at {address.url} ({', '.join(naming)})")


def _reads_hosts(naming: list[str], root: Path) -> bool:
    """Whether config.toml names the directory of hosts.toml, or the mirror itself."""
    configuration = root / "etc/containerd/config.toml"
    return str(configuration) in naming or _CERTS in (ClientFile(root, "/etc/containerd/config.toml").read() or "")
