"""containerd: hosts.toml in `_default`, which applies to every registry without a directory of its own.

containerd names the registry in each request (`ns`), and falls back to it if the mirror fails or does not know it. It
tries hosts in the order of the file.
"""

from __future__ import annotations

import re
from functools import partial

import tomlkit

from mirror.clients.address import Mirrored
from mirror.clients.client import Client
from mirror.clients.toml import Document, edited, read, strings_at, table_at
from mirror.errors import ClientConfigurationInvalid

_PATH = "/etc/containerd/certs.d/_default/hosts.toml"
_REQUIRED_CAPABILITIES = ("pull", "resolve")
_HEADER = re.compile(r"^[ \t]*\[", re.MULTILINE)


def hosts_file(existing: str | None, mirrored: Mirrored) -> str:
    """Return hosts.toml with the mirror as the first host."""
    url = mirrored.address.url
    text = existing or ""
    found = read(text)
    hosts = table_at(found, "host")
    ours = _with_capabilities(table_at(hosts, url))
    others = {name: host for name, host in hosts.items() if name != url}
    wanted = {**found, "host": {url: ours, **others}}
    return edited(text, wanted, partial(_put_first, url, ours, is_new=url not in hosts, text=text))


def _with_capabilities(host: Document) -> Document:
    if "capabilities" not in host:
        return {"capabilities": list(_REQUIRED_CAPABILITIES), **host}
    there = strings_at(host, "capabilities")
    return {**host, "capabilities": [*there, *(one for one in _REQUIRED_CAPABILITIES if one not in there)]}


def _put_first(url: str, ours: Document, document: tomlkit.TOMLDocument, *, is_new: bool, text: str) -> str:
    """Return the text with the mirror's table before all others. Comments stay with the table below them."""
    if not is_new:
        hosts = document["host"]
        if not isinstance(hosts, dict):
            raise ClientConfigurationInvalid("host must be a table")
        del hosts[url]
        text = tomlkit.dumps(document)
    table = tomlkit.dumps({"host": {url: ours}}).replace("[host]\n", "", 1).strip("\n")
    header = _HEADER.search(text)
    at = len(text) if header is None else _above_comments(text, header.start())
    before, after = text[:at], text[at:]
    gap = "" if not before or before.endswith("\n\n") else "\n" if before.endswith("\n") else "\n\n"
    return f"{before}{gap}{table}\n" + (f"\n{after}" if after.strip() else "")


def _above_comments(text: str, at: int) -> int:
    """Return the start of the comment lines directly above *at*, which is the start of a line."""
    while at > 0:
        begin = text.rfind("\n", 0, at - 1) + 1
        if not text[begin:at].lstrip().startswith("#"):
            break
        at = begin
    return at


def _advice(mirrored: Mirrored) -> list[str]:
    lines = [
        (
            "containerd reads the file at the next pull, provided that its config.toml names the directory: "
            'config_path = "/etc/containerd/certs.d" below [plugins."io.containerd.grpc.v1.cri".registry] '
            '([plugins."io.containerd.cri.v1.images".registry] since 2.0). After a change of config.toml: '
            "systemctl restart containerd"
        ),
        "ctr needs the directory as an option: ctr images pull --hosts-dir /etc/containerd/certs.d IMAGE",
    ]
    if mirrored.has_users:
        lines.append(
            f'This mirror has users: add [host."{mirrored.address.url}".header] with '
            f'authorization = "Basic …" (base64 of name:password), '
            "and make the file readable by root only"
        )
    if not mirrored.address.is_plain:
        lines.append("If a private CA signed the mirror's certificate, add ca = \"FILE\" to the mirror's table")
    return lines


def _configured_registries(path: str, _: str) -> frozenset[str]:
    """Return the registry of a directory: its file replaces the one in _default."""
    return frozenset({path.split("/")[-2]} - {"_default"})


CONTAINERD = Client(
    "containerd", _PATH, hosts_file, _advice, ("/etc/containerd/certs.d/*/hosts.toml",), _configured_registries
)
