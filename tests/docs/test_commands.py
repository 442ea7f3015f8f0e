"""Whoever types what a document says gets what it says."""

import asyncio
from pathlib import Path

import pytest

from tests.docs.blocks import Command, File, blocks
from tests.docs.machine import machine
from tests.docs.reader import INSTEAD, NOT_RUN, PROOFS, reader
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

ELSEWHERE = {
    "deploy/README.md": {
        "pip download ": "tests/deploy/engine.py",
        "docker build ": "tests/deploy/engine.py",
        "python3 -m venv /opt/mirror": "tests/deploy/engine.py",  # as the Dockerfile does
        "/opt/mirror/bin/pip install ": "tests/deploy/engine.py",
        "install -D ": "tests/deploy/test_systemd.py",
        "systemctl enable ": "tests/deploy/test_systemd.py",
        "mirror client-config kubernetes ": "tests/unit/test_clients.py",
    }
}
"""Documents whose blocks other tests see to: each command by its beginning, and where."""

DOCUMENTS = {
    str(path.relative_to(ROOT)): path
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")])
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_is_seen_to_elsewhere_is_seen_to(name: str) -> None:
    """Each command of such a document by a test that is there, and nothing but what the document says."""
    said = [block.text for block in blocks(DOCUMENTS[name]) if isinstance(block, Command)]
    for text in said:
        assert any(text.startswith(beginning) for beginning in ELSEWHERE[name]), f"nobody sees to {text}"
    for beginning, test in ELSEWHERE[name].items():
        assert any(text.startswith(beginning) for text in said), beginning
        assert (ROOT / test).is_file(), test


def test_what_is_not_run_is_there() -> None:
    """The list of what can't be run has nothing on it that no document says any more."""
    said = [block.text for path in DOCUMENTS.values() for block in blocks(path) if isinstance(block, Command)]
    for beginning in (*NOT_RUN, *INSTEAD):
        assert any(text.startswith(beginning) for text in said), beginning


def test_what_is_proved_is_there() -> None:
    """And every proof is of a file that some document shows."""
    shown = {block.path for path in DOCUMENTS.values() for block in blocks(path) if isinstance(block, File)}
    assert shown >= PROOFS.keys()


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
    *("busybox", "containerd", "curl", "docker", "docker-registry", "dockerd", "ip", "nsenter", "openssl", "pkill"),
    *("podman", "skopeo"),
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
