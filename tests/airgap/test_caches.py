"""What commands take for a cache: what a mirror has made, and nothing else."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from tests.airgap.command import mirror_command, succeeded
from tests.fake.content import image

KEEPING = [
    ("ls",),
    ("stats", "--json"),
    ("gc",),
    ("pin", "a"),
    ("unpin", "a"),
    ("rm", "a"),
    ("export", "a", "-o", "out.tar"),
    ("verify",),
]


def seen(directory: Path) -> dict[str, str]:
    """Every file below a directory, and what is in it."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(directory.rglob("*"))
    }


@pytest.mark.parametrize("command", KEEPING, ids=lambda command: command[0])
async def test_what_looks_into_a_cache_makes_none(tmp_path: Path, command: tuple[str, ...]) -> None:
    """A directory of a mistyped name is not made, and nobody is told that his images are gone."""
    said = await mirror_command(*command, "--cache", tmp_path / "typo")
    assert said.status == 2, said
    assert str(tmp_path / "typo") in said.err
    assert "--cache" in said.err
    assert not said.out
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("command", KEEPING, ids=lambda command: command[0])
async def test_somebody_elses_images_stay(tmp_path: Path, command: tuple[str, ...]) -> None:
    """An image layout is what a cache is as well; only what a mirror has made is taken for one."""
    manifest = image(1000)
    blobs = {manifest.digest: manifest.content} | {blob.digest: blob.content for blob in manifest.blobs}
    (tmp_path / "blobs/sha256").mkdir(parents=True)
    for digest, content in blobs.items():
        (tmp_path / "blobs/sha256" / digest.partition(":")[2]).write_bytes(content)
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (tmp_path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": []}))
    before = seen(tmp_path)

    said = await mirror_command(*command, "--cache", tmp_path)
    assert said.status == 2, said
    assert str(tmp_path) in said.err
    assert seen(tmp_path) == before


async def test_what_a_mirror_has_made_is_a_cache_without_its_ledger(tmp_path: Path) -> None:
    """The ledger is made anew from what is there."""
    await mirror_command("warm", "a", "--cache", tmp_path, "--upstream", "docker.io=http://127.0.0.1:9")
    assert (await succeeded("stats", "--cache", tmp_path)).out
    for file in (tmp_path / "ledger").iterdir():
        file.unlink()
    (tmp_path / "ledger").rmdir()
    assert (await succeeded("stats", "--cache", tmp_path)).out


@pytest.mark.parametrize("command", [("ls",), ("warm", "a"), ("serve",)], ids=lambda command: command[0])
async def test_an_empty_name_is_no_directory(tmp_path: Path, command: tuple[str, ...]) -> None:
    """The shell's variable was not set; the working directory was not meant."""
    said = await mirror_command(*command, "--cache", "")
    assert said.status == 2, said
    assert "--cache" in said.err
    assert "empty" in said.err
