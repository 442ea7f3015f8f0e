"""The commands in all documents succeed with the shown output."""

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
"""The images that the documents pull; every upstream has all of them."""

ELSEWHERE = {
    "deploy/README.md": {
        "pip download ": "tests/deploy/engine.py",
        "docker build ": "tests/deploy/engine.py",
        "python3 -m venv /opt/mirror": "tests/deploy/engine.py",  # as in the Dockerfile
        "/opt/mirror/bin/pip install ": "tests/deploy/engine.py",
        "install -D ": "tests/deploy/test_systemd.py",
        "systemctl enable ": "tests/deploy/test_systemd.py",
        "mirror client-config kubernetes ": "tests/unit/clients/test_clients.py",
    }
}
"""Documents whose commands are run by other tests: the beginning of each command, and the test file."""

DOCUMENTS = {
    str(path.relative_to(ROOT)): path
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")])
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_commands_with_other_tests_are_listed(name: str) -> None:
    """Each command of such a document has an existing test, and each entry is a command of the document."""
    commands = [block.text for block in blocks(DOCUMENTS[name]) if isinstance(block, Command)]
    for text in commands:
        assert any(text.startswith(beginning) for beginning in ELSEWHERE[name]), f"no test runs {text}"
    for beginning, test in ELSEWHERE[name].items():
        assert any(text.startswith(beginning) for text in commands), beginning
        assert (ROOT / test).is_file(), test


def test_skipped_commands_are_in_documents() -> None:
    """Each entry of the lists of commands that are not run is a command of some document."""
    commands = [block.text for path in DOCUMENTS.values() for block in blocks(path) if isinstance(block, Command)]
    for beginning in (*NOT_RUN, *INSTEAD):
        assert any(text.startswith(beginning) for text in commands), beginning


def test_checked_files_are_in_documents() -> None:
    """Each checked file is shown by some document."""
    shown = {block.path for path in DOCUMENTS.values() for block in blocks(path) if isinstance(block, File)}
    assert shown >= PROOFS.keys()


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage of a docker-registry with all images."""
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
async def test_document_commands_succeed_with_shown_output(name: str, storage: Path) -> None:
    """All blocks of a document run in order on one machine: commands succeed with the shown output, files are used."""
    found = list(blocks(DOCUMENTS[name]))
    if not found:
        return
    async with machine(storage, {}) as here, reader(here) as following:
        for block in found:
            await following.follow(block)
