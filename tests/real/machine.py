"""Capabilities of this machine: installed programs, and the user that runs the tests."""

import os
import shutil
from collections.abc import Sequence

# the Debian package of each program that a test may need
PACKAGES = {
    "busybox": "busybox-static",
    "containerd": "containerd",
    "ctr": "containerd",
    "curl": "curl",
    "docker": "docker.io",
    "docker-compose": "docker-compose",
    "docker-registry": "docker-registry",
    "dockerd": "docker.io",
    "ip": "iproute2",
    "kubectl": "kubernetes-client",
    "mount": "mount",
    "nginx": "nginx-light",
    "nsenter": "util-linux",
    "openssl": "openssl",
    "pkill": "procps",
    "podman": "podman",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "skopeo": "skopeo",
    "systemd-analyze": "systemd",
    "systemd-sysusers": "systemd",
    "unshare": "util-linux",
}


def unmet(programs: Sequence[str], *, root: bool) -> str | None:
    """Return how to meet a test's needs, in one line; None if they are met."""
    fixes = []
    missing = sorted({PACKAGES[program] for program in programs if not shutil.which(program)})
    if missing:
        fixes.append(f"apt-get install {' '.join(missing)}")
    if root and os.geteuid() != 0:
        fixes.append("run the tests as root")
    return f"needs: {', and '.join(fixes)}" if fixes else None
