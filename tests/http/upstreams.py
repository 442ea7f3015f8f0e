"""Upstreams in the mirror's configuration: one for each test, so that tests share no circuit breaker and no counts."""

from collections.abc import Iterable
from dataclasses import dataclass

from tests.fake.content import Blob, Manifest
from tests.fake.registry import Registry

CALM = """
[timeouts]
shutdown = "2s"
"""
IMPATIENT = """
[timeouts]
connect = "1s"
first_byte = "1s"
silence = "1s"
shutdown = "2s"
"""


@dataclass(frozen=True, slots=True)
class Upstream:
    """A registry, and the name under which the mirror knows it."""

    name: str
    registry: Registry
    repository: str = "team/app"

    def manifest(self, reference: str | Manifest) -> str:
        """Return the mirror's target for a manifest, with the upstream in the path."""
        return self._target("manifests", reference)

    def blob(self, blob: str | Blob) -> str:
        """Return the mirror's target for a blob, with the upstream in the path."""
        return self._target("blobs", blob)

    def _target(self, kind: str, reference: str | Manifest | Blob) -> str:
        name = reference if isinstance(reference, str) else reference.digest
        return f"/v2/{self.name}/{self.repository}/{kind}/{name}"

    def publish(self, manifest: Manifest, *tags: str) -> Manifest:
        """Push an image to the registry."""
        self.registry.publish(self.repository, manifest, *tags)
        return manifest

    def publish_blob(self, blob: Blob) -> Blob:
        """Push a blob to the registry."""
        self.registry.add(self.repository, blob)
        return blob


def by_ns(target: str) -> str:
    """Return the same target with the upstream in ``ns``, as clients with a mirror configuration send it."""
    _, _, name, rest = target.split("/", 3)
    return f"/v2/{rest}?ns={name}"


def section(name: str, url: str, more: str = "") -> str:
    """Return an upstream's configuration section."""
    return f'[upstreams."{name}"]\nurl = "{url}"\n{more}\n'


def sections(upstreams: Iterable[Upstream], more: str = "") -> str:
    """Return the configuration sections of these upstreams."""
    return "".join(section(upstream.name, upstream.registry.url, more) for upstream in upstreams)
