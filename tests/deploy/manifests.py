"""Kubernetes objects rendered by kustomize, and their parts."""

import subprocess
from collections.abc import Iterator
from functools import cache
from typing import Any

import yaml

from tests.deploy.files import DEPLOY

FOLDER = DEPLOY / "kubernetes"
KINDS = {"cluster": "StatefulSet", "node": "DaemonSet"}

Object = dict[str, Any]


@cache
def rendered(name: str) -> tuple[Object, ...]:
    """Return the objects of a kustomization, rendered by `kubectl kustomize`."""
    made = subprocess.run(["kubectl", "kustomize", str(FOLDER / name)], capture_output=True, text=True, check=False)
    assert (made.returncode, made.stderr) == (0, ""), made.stderr
    return tuple(yaml.safe_load_all(made.stdout))


def only(name: str, kind: str) -> Object:
    """Return the only object of this kind."""
    (found,) = (one for one in rendered(name) if one["kind"] == kind)
    return found


def pod(name: str) -> Object:
    """Return the pod template's spec."""
    spec = only(name, KINDS[name])["spec"]["template"]["spec"]
    assert isinstance(spec, dict)
    return spec


def containers(name: str) -> Iterator[Object]:
    """Yield the init containers and the containers of the pod."""
    yield from pod(name).get("initContainers", [])
    yield from pod(name)["containers"]


def main_container(name: str) -> Object:
    """Return the mirror's container."""
    (found,) = pod(name)["containers"]
    assert isinstance(found, dict)
    return found


def configuration(name: str) -> str:
    """Return the mirror.toml that the container reads."""
    text = only(name, "ConfigMap")["data"]["mirror.toml"]
    assert isinstance(text, str)
    return text
