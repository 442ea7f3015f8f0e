"""Files that an interrupted ingest left: resumed where possible, and never a reason to store nothing."""

import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mirror.config import CacheSettings
from mirror.errors import StorageFailed
from mirror.observability.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.storage.disk import DiskStore
from mirror.storage.fact_store import DiskFacts

CONTENT = bytes(range(250)) * 4
DIGEST = Digest.of(CONTENT)


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[DiskStore]:
    settings = CacheSettings(path=path, max_size=2**20, min_free=0)
    async with DiskFacts.open(path / "ledger") as facts, DiskStore.at(settings, facts, Metrics()) as store:
        yield store


@pytest.fixture
def ordinary_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `os.open` refuse a file as the kernel does for every user but root, because root may run the tests."""
    actual = os.open

    def refuse(path: str | Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        needed = stat.S_IRUSR | (stat.S_IWUSR if flags & os.O_RDWR else 0)
        for place in (path, os.path.dirname(path)):
            if os.path.exists(place) and os.stat(place).st_mode & needed != needed:
                raise PermissionError(13, "Permission denied", str(path))
        return actual(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refuse)


@pytest.mark.parametrize(("mode", "kept"), [(0o444, len(CONTENT)), (0o400, len(CONTENT)), (0o200, 0), (0, 0)])
@pytest.mark.usefixtures("ordinary_user")
async def test_read_only_file_is_continued_or_begun_anew(tmp_path: Path, mode: int, kept: int) -> None:
    """A commit makes the file read-only before it renames it: a mirror killed between the two leaves it so."""
    file = tmp_path / "ingest" / f"{DIGEST.algorithm}-{DIGEST.hex}"
    file.parent.mkdir()
    file.write_bytes(CONTENT)
    file.chmod(mode)
    async with opened(tmp_path) as store:
        async with store.ingest(DIGEST) as ingest:
            assert (ingest.written, ingest.is_complete) == (kept, kept > 0)
            await ingest.append(memoryview(CONTENT)[kept:])
            ingest.verify(len(CONTENT))
            await ingest.commit()
        assert store.health.is_writable
        assert await store.read(DIGEST) == CONTENT
        assert store.occupied == len(CONTENT)


@pytest.mark.usefixtures("ordinary_user")
async def test_read_only_directory_fails_the_store(tmp_path: Path) -> None:
    """There the file can be neither opened nor replaced, and the message names the reason."""
    async with opened(tmp_path) as store:
        (tmp_path / "ingest").chmod(0o500)
        with pytest.raises(StorageFailed, match="Permission denied"):
            async with store.ingest(DIGEST):
                pass
        assert not store.health.is_writable
        (tmp_path / "ingest").chmod(0o700)
