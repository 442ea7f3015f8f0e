"""Commands accept only a directory that a mirror has created as a cache."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from tests.airgap.command import mirror_command, succeeded
from tests.fake.content import image

COMMANDS = [
    ("ls",),
    ("stats", "--json"),
    ("gc",),
    ("pin", "a"),
    ("unpin", "a"),
    ("rm", "a"),
    ("export", "a", "-o", "out.tar"),
    ("verify",),
]


def file_hashes(directory: Path) -> dict[str, str]:
    """Return every file below a directory with the hash of its content."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(directory.rglob("*"))
    }


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
async def test_reading_commands_create_no_cache(tmp_path: Path, command: tuple[str, ...]) -> None:
    """A mistyped --cache is an error that names the directory; no directory is created and no empty cache is shown."""
    result = await mirror_command(*command, "--cache", tmp_path / "typo")
    assert result.status == 2, result
    assert str(tmp_path / "typo") in result.err
    assert "--cache" in result.err
    assert not result.out
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
async def test_commands_leave_a_foreign_image_layout_alone(tmp_path: Path, command: tuple[str, ...]) -> None:
    """A foreign OCI image layout has the structure of a cache; commands refuse it and change nothing in it."""
    manifest = image(1000)
    blobs = {manifest.digest: manifest.content} | {blob.digest: blob.content for blob in manifest.blobs}
    (tmp_path / "blobs/sha256").mkdir(parents=True)
    for digest, content in blobs.items():
        (tmp_path / "blobs/sha256" / digest.partition(":")[2]).write_bytes(content)
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (tmp_path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": []}))
    before = file_hashes(tmp_path)

    result = await mirror_command(*command, "--cache", tmp_path)
    assert result.status == 2, result
    assert str(tmp_path) in result.err
    assert file_hashes(tmp_path) == before


async def test_cache_without_fact_database_is_accepted(tmp_path: Path) -> None:
    """The fact database is rebuilt from the stored blobs."""
    await mirror_command("warm", "a", "--cache", tmp_path, "--upstream", "docker.io=http://127.0.0.1:9")
    assert (await succeeded("stats", "--cache", tmp_path)).out
    for file in (tmp_path / "ledger").iterdir():
        file.unlink()
    (tmp_path / "ledger").rmdir()
    assert (await succeeded("stats", "--cache", tmp_path)).out


@pytest.mark.parametrize("command", [("ls",), ("warm", "a"), ("serve",)], ids=lambda command: command[0])
async def test_empty_cache_option_is_refused(tmp_path: Path, command: tuple[str, ...]) -> None:
    """An empty --cache (an unset shell variable) is an error, and does not mean the working directory."""
    result = await mirror_command(*command, "--cache", "")
    assert result.status == 2, result
    assert "--cache" in result.err
    assert "empty" in result.err
