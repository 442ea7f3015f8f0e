"""k3s and RKE2: registries.yaml, from which they write containerd's hosts.toml."""

from __future__ import annotations

from copy import copy

import yaml
from yaml.constructor import SafeConstructor

from mirror.clients.address import Mirrored
from mirror.clients.client import Client
from mirror.errors import ClientConfigurationInvalid

_PATH = "/etc/rancher/k3s/registries.yaml"
_STRING, _NULL, _MAPPING, _SEQUENCE = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "null", "map", "seq"))
_WIDE = 2**20  # columns: no line is broken that was not


def _merged(existing: str | None, mirrored: Mirrored) -> str:
    """Nodes are merged, not values, so that each scalar stays as it is spelled: 012 is no 10, "1e3" no number."""
    root = _read(existing or "")
    url = mirrored.address.url
    changed = [_put_first(_below(_below(root, "mirrors"), name), url, name) for name in mirrored.upstreams]
    if existing is not None and not any(changed):
        return existing
    return yaml.serialize(root, Dumper=yaml.SafeDumper, allow_unicode=True, width=_WIDE)


def _put_first(mirror: yaml.MappingNode, url: str, name: str) -> bool:
    """Makes *url* the first endpoint of the registry *name*; whether it was not."""
    there = _endpoints(_value(mirror, "endpoint"), name)
    if there and there[0].value == url:
        return False
    items = [_text(url), *(one for one in there if one.value != url)]
    _set(mirror, "endpoint", yaml.SequenceNode(_SEQUENCE, items, flow_style=False))
    return True


def _endpoints(node: yaml.Node | None, name: str) -> list[yaml.ScalarNode]:
    items = [] if _is_nothing(node) else node.value if isinstance(node, yaml.SequenceNode) else [None]
    found = [one for one in items if isinstance(one, yaml.ScalarNode) and one.tag == _STRING]
    if len(found) != len(items):
        raise ClientConfigurationInvalid(f"mirrors.{name}.endpoint is no list of addresses")
    return found


def _read(text: str) -> yaml.MappingNode:
    try:
        yaml.safe_load(text)  # also says what of it means nothing
        root = yaml.compose(text, yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ClientConfigurationInvalid(f"it is not YAML: {error}") from error
    if _is_nothing(root):
        return _mapping()
    if not isinstance(root, yaml.MappingNode):
        raise ClientConfigurationInvalid("it holds no mapping")
    return root


def _below(parent: yaml.MappingNode, key: str) -> yaml.MappingNode:
    """What is below *key*, made where nothing is. It is nobody else's: other keys may be aliases of what is there."""
    SafeConstructor().flatten_mapping(parent)  # what << brings in would else be hidden by what is written here
    found = _value(parent, key)
    if not _is_nothing(found) and not isinstance(found, yaml.MappingNode):
        raise ClientConfigurationInvalid(f"{key} is no mapping")
    own = copy(found) if isinstance(found, yaml.MappingNode) else _mapping()
    own.value = list(own.value)
    _set(parent, key, own)
    SafeConstructor().flatten_mapping(own)
    return own


def _value(parent: yaml.MappingNode, key: str) -> yaml.Node | None:
    """What *key* says; of two, the last counts."""
    return next((value for name, value in reversed(parent.value) if name.value == key), None)


def _set(parent: yaml.MappingNode, key: str, value: yaml.Node) -> None:
    pairs = [(name, value if name.value == key else old) for name, old in parent.value]
    parent.value = pairs if _value(parent, key) is not None else [*pairs, (_text(key), value)]


def _is_nothing(node: yaml.Node | None) -> bool:
    return node is None or node.tag == _NULL


def _mapping() -> yaml.MappingNode:
    return yaml.MappingNode(_MAPPING, [], flow_style=False)


def _text(value: str) -> yaml.ScalarNode:
    return yaml.ScalarNode(_STRING, value)


def _advice(mirrored: Mirrored) -> list[str]:
    host = mirrored.address.host
    lines = [
        (
            "Put it on every node and restart k3s there: systemctl restart k3s (agents: k3s-agent). "
            "RKE2 reads /etc/rancher/rke2/registries.yaml"
        ),
        "Where the file is merged with --write, comments in it stay in its backup only",
    ]
    if mirrored.address.is_loopback:
        lines.append("127.0.0.1 is each node itself: unless a mirror runs on each, give --mirror another address")
    if mirrored.has_users:
        lines.append(f'This mirror has users: below configs: "{host}": auth:, set username and password')
    if not mirrored.address.is_plain:
        lines.append(
            f'If an authority of your own signed the mirror\'s certificate: below configs: "{host}": tls:, set ca_file'
        )
    return lines


K3S = Client("k3s", _PATH, _merged, _advice)
