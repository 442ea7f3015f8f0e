"""Whoever types what a document says gets what it says."""

import asyncio
from pathlib import Path

import pytest

from tests.docs.blocks import Command, blocks
from tests.docs.machine import machine
from tests.docs.reader import NOT_RUN, reader
from tests.real import images
from tests.real.mirror import ROOT
from tests.real.registry import docker_registry

IMAGES = (
    "library/alpine:3.20",
    "library/postgres:16",
    "library/python:3.12",
    "library/busybox:1.37",
    "org/app:v1",
    "team/app:1.4.2",
    "pause:3.10",
)
"""What the documents pull; every upstream has all of them."""

ELSEWHERE = {"deploy/README.md": "tests/deploy"}
"""Documents whose blocks other tests run, and those."""

DOCUMENTS = {
    str(path.relative_to(ROOT)): path
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")])
}


def test_every_document_with_blocks_has_a_test() -> None:
    """This one, or one that is there."""
    for name, tests in ELSEWHERE.items():
        assert name not in DOCUMENTS or (ROOT / tests).exists(), f"{name}: nobody runs what it says"


def test_what_is_not_run_is_there() -> None:
    """The list of what can't be run has nothing on it that no document says any more."""
    said = [block.text for path in DOCUMENTS.values() for block in blocks(path) if isinstance(block, Command)]
    for beginning in NOT_RUN:
        assert any(text.startswith(beginning) for text in said), beginning


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A docker-registry's storage with all images."""
    folder = tmp_path_factory.mktemp("registry")

    async def push() -> None:
        async with docker_registry(folder) as registry:
            for name in IMAGES:
                repository, _, tag = name.partition(":")
                await registry.push(images.runnable(f"hello from {name}"), repository, tag)

    asyncio.run(push())
    return folder / "storage"


@pytest.mark.needs(
    *("busybox", "containerd", "docker", "docker-registry", "dockerd", "ip", "nsenter", "openssl", "podman", "skopeo"),
    root=True,
)
@pytest.mark.parametrize("name", [name for name in DOCUMENTS if name not in ELSEWHERE])
async def test_whoever_types_all_of_it_gets_what_it_says(name: str, storage: Path) -> None:
    """From the first block to the last, on one machine: commands succeed and say what is shown, files are read."""
    found = list(blocks(DOCUMENTS[name]))
    if not found:
        return
    async with machine(storage, {}) as here, reader(here) as person:
        for block in found:
            await person.follow(block)
