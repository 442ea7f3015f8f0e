"""What this machine can do: the programs that are installed, and the user that runs the tests."""

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
    """What to do so that a test with these needs can run, in one line; None when it can."""
    cures = []
    missing = sorted({PACKAGES[program] for program in programs if not shutil.which(program)})
    if missing:
        cures.append(f"apt-get install {' '.join(missing)}")
    if root and os.geteuid() != 0:
        cures.append("run the tests as root")
    return f"needs: {', and '.join(cures)}" if cures else None
