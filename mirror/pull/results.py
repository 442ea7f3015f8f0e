"""Results of pulls: values that say what was found, and how."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mirror.errors import MirrorError
from mirror.oci.manifest import Manifest, ManifestHead
from mirror.pull.blob_content import BlobContent
from mirror.upstream.registry import Page


class CacheOutcome(Enum):
    """How a pull was answered; the value is the outcome's name in metrics and log events."""

    HIT = "hit"
    STORED = "stored"  # the upstream was asked, and its answer is stored
    COLLAPSED = "collapsed"  # another pull's request to the upstream was in progress (RFC 9211, 2.4)
    PASSED = "passed"  # the upstream was asked, and its answer is not stored
    STALE = "stale"  # the upstream could not confirm the answer


@dataclass(frozen=True, slots=True)
class ManifestResult:
    """A manifest; for HEAD possibly only its head.

    Attributes:
        age: seconds since the upstream last confirmed it, if it is stale.
        failure: why the upstream could not confirm it, if it is stale.
    """

    head: ManifestHead
    manifest: Manifest | None
    outcome: CacheOutcome
    age: int = 0
    failure: MirrorError | None = None


@dataclass(frozen=True, slots=True)
class BlobResult:
    """A blob that can be delivered: its size is known, and its first bytes are available or being received."""

    size: int
    outcome: CacheOutcome
    content: BlobContent


@dataclass(frozen=True, slots=True)
class ListResult:
    """A page of a list of tags or referrers.

    Attributes:
        age: seconds since the upstream sent it, if it is stale; None if it was made from stored content.
        failure: why the upstream could not be asked again, if it is stale.
    """

    page: Page
    outcome: CacheOutcome
    age: int | None = 0
    failure: MirrorError | None = None
