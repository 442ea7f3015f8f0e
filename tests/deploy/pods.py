"""A pod of the Kubernetes manifests, run by Docker with the same image, arguments, user, capabilities and mounts."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.deploy.engine import MIRROR, NETWORK, Site
from tests.deploy.manifests import Object, configuration, containers, main_container, pod

FLAGS = {"allowPrivilegeEscalation": "--security-opt=no-new-privileges", "readOnlyRootFilesystem": "--read-only"}


@asynccontextmanager
async def pod_of(site: Site, name: str, directory: Path) -> AsyncIterator[str]:
    """Run the init containers to their end, then yield the mirror's container, published at 127.0.0.1:5000.

    Args:
        directory: where volumes are, each in a folder of its name.
    """
    _create_volumes(name, directory)
    started = []
    try:
        for one in containers(name):
            flags = [*_flags(pod(name)["securityContext"] | one["securityContext"]), *_mounts(name, one, directory)]
            command = one.get("command", [])
            entry = [f"--entrypoint={command[0]}"] if command else []
            arguments = [*command[1:], *one.get("args", [])]
            if one != main_container(name):
                await site.engine.completed(*flags, *entry, "--network=none", MIRROR, *arguments)
                continue
            (port,) = one["ports"]
            flags += [f"--publish=127.0.0.1:5000:{port['containerPort']}", f"--network={NETWORK}"]
            flags += [f"--env=MIRROR_UPSTREAM={site.upstream}"]
            started.append(await site.engine.started(*flags, *entry, MIRROR, *arguments))
        (container,) = started
        yield container
    finally:
        await site.engine.remove(*started)


def _create_volumes(name: str, directory: Path) -> None:
    """Create the volumes as for a new pod: directories of the node belong to root, a claim to the pod's group."""
    for volume in ("cache", "hosts", "configuration"):
        (directory / volume).mkdir(exist_ok=True)
    (directory / "configuration" / "mirror.toml").write_text(configuration(name))
    group = pod(name)["securityContext"].get("fsGroup")
    if group is not None:
        os.chown(directory / "cache", 0, group)
        os.chmod(directory / "cache", 0o2775)
        (directory / "cache" / "lost+found").mkdir(mode=0o700)  # as in every new ext4 file system


def _flags(security: Object) -> list[str]:
    """Translate a security context to Docker's flags. Fields without a flag (seccomp) are Docker's default."""
    flags = [f"--user={security['runAsUser']}:{security['runAsGroup']}"]
    flags += [f"--group-add={security['fsGroup']}"] if "fsGroup" in security else []
    assert security["allowPrivilegeEscalation"] is False
    assert security["readOnlyRootFilesystem"] is True
    flags += FLAGS.values()
    for action, capabilities in security["capabilities"].items():
        flags += [f"--cap-{action}={capability}" for capability in capabilities]
    return flags


def _mounts(name: str, container: Object, directory: Path) -> list[str]:
    temporary = {volume["name"] for volume in pod(name)["volumes"] if "emptyDir" in volume}
    flags = []
    for mount in container["volumeMounts"]:
        if mount["name"] in temporary:
            flags.append(f"--tmpfs={mount['mountPath']}")
        else:
            mode = "ro" if mount.get("readOnly") else "rw"
            flags.append(f"--volume={directory / mount['name']}:{mount['mountPath']}:{mode}")
    return flags
