"""Fixtures for tests of containers."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.deploy.engine import Site, site


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def built(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """A Docker engine that has the mirror's image."""
    async with site(tmp_path_factory.mktemp("site")) as made:
        yield made
