"""Fixtures: one mirror process for each module, and for each test a registry of its own behind it.

A module may set ``CONFIG`` (TOML, its own sections) and ``UPSTREAM`` (TOML, lines for each upstream's section); in both
``{directory}`` stands for the directory that contains ``FILES`` (name to content). ``PROGRAMS`` (name to script) are
on the mirror's PATH.
"""

import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.fake.cdn import Cdn
from tests.fake.registry import Registry
from tests.fake.tokens import TokenServer
from tests.http.client import Client
from tests.http.upstreams import CALM, Upstream, section, sections
from tests.real.mirror import Mirror
from tests.real.mirror import mirror as running_mirror


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub() -> AsyncIterator[Registry]:
    """The default upstream, docker.io; shared by a module's tests."""
    async with Registry.running() as registry:
        yield registry


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstreams(request: pytest.FixtureRequest) -> AsyncIterator[list[Upstream]]:
    """One upstream for each test of the module."""
    tests = sum(item.getparent(pytest.Module) is request.node for item in request.session.items)
    async with contextlib.AsyncExitStack() as stack:
        yield [
            Upstream(f"r{number}.test", await stack.enter_async_context(Registry.running())) for number in range(tests)
        ]


@pytest.fixture(scope="module")
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the module's files and programs, and of the mirror's configuration, cache and log."""
    directory = tmp_path_factory.mktemp("mirror")
    for name, content in getattr(request.module, "FILES", {}).items():
        (directory / name).write_text(content)
    (directory / "bin").mkdir()
    for name, script in getattr(request.module, "PROGRAMS", {}).items():
        program = directory / "bin" / name
        program.write_text(script.replace("{directory}", str(directory)))
        program.chmod(0o755)
    return directory


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mirror(
    request: pytest.FixtureRequest, hub: Registry, upstreams: list[Upstream], directory: Path
) -> AsyncIterator[Mirror]:
    """The mirror process, with the module's configuration."""
    module = request.module
    own, lines = (
        getattr(module, name, otherwise).replace("{directory}", str(directory))
        for name, otherwise in (("CONFIG", CALM), ("UPSTREAM", ""))
    )
    config = directory / "mirror.toml"
    config.write_text(own + section("docker.io", hub.url) + sections(upstreams, lines))
    env = {"PATH": f"{directory}/bin:{os.environ['PATH']}"}
    async with running_mirror(directory, "--config", str(config), env=env) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(mirror: Mirror) -> AsyncIterator[Client]:
    """A client of the module's mirror."""
    async with Client.of(mirror.url) as client:
        yield client


@pytest.fixture(scope="module")
def unused(upstreams: list[Upstream]) -> Iterator[Upstream]:
    """The upstreams that no test has used yet."""
    return iter(upstreams)


@pytest.fixture
def upstream(unused: Iterator[Upstream]) -> Upstream:
    """An upstream for this test only."""
    return next(unused)


@pytest.fixture
def registry(upstream: Upstream) -> Registry:
    """The registry behind this test's upstream."""
    return upstream.registry


@pytest_asyncio.fixture(loop_scope="module")
async def cdn() -> AsyncIterator[Cdn]:
    """Object storage on another origin."""
    async with Cdn.running() as cdn:
        yield cdn


@pytest_asyncio.fixture(loop_scope="module")
async def tokens() -> AsyncIterator[TokenServer]:
    """A token service on another origin."""
    async with TokenServer.running() as tokens:
        yield tokens
