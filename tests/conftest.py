"""The pytest mark `needs`, for tests that need real programs: `@pytest.mark.needs("dockerd", root=True)`.

A test with unmet needs is skipped with one line that says what to install; with CI=true it fails instead.
"""

import os

import pytest

from tests.real.machine import unmet


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "needs(*programs, root=False): Debian programs, or root, without which it can't run"
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    programs = [program for marker in item.iter_markers("needs") for program in marker.args]
    root = any(marker.kwargs.get("root", False) for marker in item.iter_markers("needs"))
    unmet_need = unmet(programs, root=root)
    if unmet_need is None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(unmet_need, pytrace=False)
    pytest.skip(unmet_need)
