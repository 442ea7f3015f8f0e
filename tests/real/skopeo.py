"""skopeo, with all its files in one directory."""

import json
from pathlib import Path

from tests.real.program import succeeded


class Skopeo:
    """skopeo without the host's configuration."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        registries = directory / "registries.conf"
        registries.write_text('unqualified-search-registries = []\nshort-name-mode = "disabled"\n')
        self._env = {"CONTAINERS_REGISTRIES_CONF": str(registries), "HOME": str(directory)}

    async def copy(
        self,
        reference: str,
        *,
        every_platform: bool = False,
        login: str | None = None,
        certificates: Path | None = None,
    ) -> Path:
        """Copy host/name:tag to a directory with the manifest, and each blob under the hex of its digest.

        Args:
            login: name:password, sent when requested.
            certificates: a directory with ca.crt, client.cert and client.key; without it nothing is verified.
        """
        target = self._directory / f"copy-{len(list(self._directory.glob('copy-*')))}"
        options = ["--all"] if every_platform else []
        options += ["--src-creds", login] if login else []
        options += ["--src-tls-verify=false"] if certificates is None else ["--src-cert-dir", str(certificates)]
        source = f"docker://{reference}"
        argv = ["skopeo", "--insecure-policy", "copy", "--quiet", *options]
        await succeeded(*argv, source, f"dir:{target}", env=self._env)
        return target

    async def raw_manifest(self, reference: str) -> bytes:
        """Return the manifest's bytes as received."""
        argv = ["skopeo", "--insecure-policy", "inspect", "--tls-verify=false", "--raw", f"docker://{reference}"]
        return (await succeeded(*argv, env=self._env)).encode()

    async def tags(self, name: str) -> list[str]:
        """Return all tags of host/name."""
        argv = ["skopeo", "--insecure-policy", "list-tags", "--tls-verify=false", f"docker://{name}"]
        listed = json.loads(await succeeded(*argv, env=self._env))
        return [str(tag) for tag in listed["Tags"]]
