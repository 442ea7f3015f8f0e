"""Fact store on disk: tags, manifests, rights, pins and last uses, as rows of a diskcache database in `<cache>/ledger`.

A row of another shape counts as absent and is reported once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice

from mirror.errors import StorageFailed
from mirror.oci.digest import Digest
from mirror.oci.image_names import Image
from mirror.oci.names import Repository, Tag
from mirror.storage import database
from mirror.storage.blob_rows import NamedBlob, parse_blobs
from mirror.storage.fact_rows import BATCH, FactRows, Row
from mirror.storage.facts import (
    HeldFact,
    ManifestFact,
    TagFact,
    held_key,
    parse_image,
    parse_repository,
    tag_key,
)
from mirror.storage.lru_inventory import BlobRow


class DiskFacts(FactRows):
    """The facts of one cache directory."""

    async def is_rebuilt(self, part: str) -> bool:
        """Return whether *part* ("names", "manifests") holds all that can be rebuilt. A new database does not."""
        return await self._get_fact(f"meta rebuilt {part}", _object) is not None

    async def keep_rebuilt(self, part: str) -> None:
        await self._set(f"meta rebuilt {part}", {"part": part})

    async def scrubbed(self) -> Digest | None:
        """Return the blob that the scrub inspected last."""
        return await self._get_fact("meta scrubbed", _digest)

    async def keep_scrubbed(self, digest: Digest | None) -> None:
        await self._set("meta scrubbed", None if digest is None else {"digest": str(digest)})

    # Tags

    async def tag(self, repository: Repository, tag: Tag) -> TagFact | None:
        return await self._get_fact(tag_key(repository, tag), TagFact.parse)

    async def keep_tag(self, repository: Repository, tag: Tag, fact: TagFact) -> None:
        await self._set(tag_key(repository, tag), fact.row())

    async def drop_tag(self, repository: Repository, tag: Tag) -> None:
        await self._set(tag_key(repository, tag), None)

    async def all_tags(self) -> Mapping[tuple[Repository, Tag], TagFact]:
        """Return all tags of all repositories."""
        return await self._list("tag ", _tag_fact, dict)

    # Manifests

    async def manifest(self, digest: Digest) -> ManifestFact | None:
        return await self._get_fact(f"manifest {digest}", ManifestFact.parse)

    async def manifests(self, digests: Iterable[Digest]) -> Mapping[Digest, ManifestFact]:
        """Return those of *digests* that are known as manifests."""
        chosen = tuple(digests)

        def read() -> dict[Digest, ManifestFact]:
            found = ((digest, self._read_fact(f"manifest {digest}", ManifestFact.parse)) for digest in chosen)
            return {digest: fact for digest, fact in found if fact is not None}

        return await self._run(read, key="manifest …")

    async def keep_manifest(self, digest: Digest, fact: ManifestFact) -> None:
        await self._set(f"manifest {digest}", fact.row(), digest)

    async def add_manifests(self, facts: Mapping[Digest, ManifestFact]) -> bool:
        """Add those of *facts* whose manifests have none yet. Return whether that succeeded."""
        with suppress(StorageFailed):
            known = await self.manifests(facts)
            order = next(self._orders)
            rows = {
                f"manifest {digest}": Row(fact.row(), digest.text, order)
                for digest, fact in facts.items()
                if digest not in known
            }
            await self._run(lambda: self._write(rows), key="manifest …")
            return True
        return False

    # Rights

    async def held(self, repository: Repository) -> Mapping[Digest, HeldFact]:
        """Return the repository's rights with rows, without those to digests that its manifests reference."""
        return (await self._list(f"held {repository} ", _held_fact, _by_repository)).get(repository, {})

    async def keep_held(self, repository: Repository, digest: Digest, fact: HeldFact) -> None:
        await self._set(held_key(repository, digest), fact.row(), digest)

    async def drop_held(self, repository: Repository, digests: Iterable[Digest]) -> None:
        order = next(self._orders)
        await self._set_all({held_key(repository, digest): Row(None, None, order) for digest in digests})

    async def all_held(self) -> Mapping[Repository, Mapping[Digest, HeldFact]]:
        """Return the same for every repository."""
        return await self._list("held ", _held_fact, _by_repository)

    # Pins

    async def pins(self) -> frozenset[Image]:
        """Return the images that are never evicted."""
        return await self._list("pin ", _pin, frozenset)

    async def keep_pin(self, image: Image) -> None:
        await self._set(f"pin {image}", {})

    async def drop_pin(self, image: Image) -> None:
        await self._set(f"pin {image}", None)

    # Sizes and last uses

    async def note_directory(self, identity: Sequence[tuple[int, int]]) -> bool:
        row: dict[str, object] = {"identity": [list(pair) for pair in identity]}
        is_same = await self._get("meta directory") == row
        if not is_same:
            await self._set("meta directory", row)
        return is_same

    async def load_blobs(self, take: Callable[[Sequence[NamedBlob]], None]) -> None:
        """Call *take* on the fact thread with the blobs that have a row, some at a time; with none if that fails."""

        def read() -> None:
            rows = database.blob_rows(self._path)
            with self._invalid_rows() as invalid:
                while batch := list(islice(rows, BATCH)):
                    blobs = parse_blobs(batch)
                    invalid += [key for (key, _), blob in zip(batch, blobs, strict=True) if blob is None]
                    if self._deletions:
                        blobs = [
                            None if self._deletions.has_key(key.decode(errors="replace")) else blob
                            for (key, _), blob in zip(batch, blobs, strict=True)
                        ]
                    take([blob for blob in blobs if blob is not None])

        with suppress(StorageFailed):
            await self._run(read, key="blob …")

    async def keep_blobs(self, rows: Sequence[BlobRow]) -> bool:
        """Write size and last use of these blobs, in transactions of 1000 rows. Return whether that succeeded."""
        ordered, order = sorted(rows), next(self._orders)
        with suppress(StorageFailed):
            for at in range(0, len(ordered), BATCH):
                batch = ordered[at : at + BATCH]
                written = {f"blob {text}": Row({"size": size, "used": used}, text, order) for text, size, used in batch}
                await self._run(partial(self._write, written), key="blob …")
            return True
        return False


def _object(row: object) -> Mapping[str, object] | None:
    return row if isinstance(row, dict) else None


def _digest(row: object) -> Digest | None:
    return Digest.parse_or_none(row.get("digest")) if isinstance(row, dict) else None


def _tag_fact(key: str, row: object) -> tuple[tuple[Repository, Tag], TagFact] | None:
    image, fact = parse_image(key.removeprefix("tag ")), TagFact.parse(row)
    if image is None or fact is None or not isinstance(image.reference, Tag):
        return None
    return (image.repository, image.reference), fact


def _held_fact(key: str, row: object) -> tuple[Repository, Digest, HeldFact] | None:
    name, _, text = key.removeprefix("held ").partition(" ")
    repository, digest, fact = parse_repository(name), Digest.parse_or_none(text), HeldFact.parse(row)
    return None if repository is None or digest is None or fact is None else (repository, digest, fact)


def _by_repository(facts: Iterable[tuple[Repository, Digest, HeldFact]]) -> dict[Repository, dict[Digest, HeldFact]]:
    found: defaultdict[Repository, dict[Digest, HeldFact]] = defaultdict(dict)
    for repository, digest, fact in facts:
        found[repository][digest] = fact
    return dict(found)


def _pin(key: str, row: object) -> Image | None:
    return parse_image(key.removeprefix("pin ")) if isinstance(row, dict) else None
