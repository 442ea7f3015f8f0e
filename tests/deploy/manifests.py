"""Kubernetes' objects as kustomize makes them of the files, and what is in them."""

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
    """The objects of a kustomization, by `kubectl kustomize`."""
    made = subprocess.run(["kubectl", "kustomize", str(FOLDER / name)], capture_output=True, text=True, check=False)
    assert (made.returncode, made.stderr) == (0, ""), made.stderr
    return tuple(yaml.safe_load_all(made.stdout))


def only(name: str, kind: str) -> Object:
    """The one object of that kind."""
    (found,) = (one for one in rendered(name) if one["kind"] == kind)
    return found


def pod(name: str) -> Object:
    """What each of its pods is to be."""
    spec = only(name, KINDS[name])["spec"]["template"]["spec"]
    assert isinstance(spec, dict)
    return spec


def containers(name: str) -> Iterator[Object]:
    """All of a pod's, those that prepare it first."""
    yield from pod(name).get("initContainers", [])
    yield from pod(name)["containers"]


def main_container(name: str) -> Object:
    """The mirror itself."""
    (found,) = pod(name)["containers"]
    assert isinstance(found, dict)
    return found


def configuration(name: str) -> str:
    """The mirror.toml that its container reads."""
    text = only(name, "ConfigMap")["data"]["mirror.toml"]
    assert isinstance(text, str)
    return text
