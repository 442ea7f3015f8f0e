"""The guard in tests/conftest.py, tried on a program that no machine has."""

import sys
from pathlib import Path

import pytest

from tests.real.machine import PACKAGES, unmet
from tests.real.mirror import ROOT
from tests.real.program import Ran, ran


async def guarded(directory: Path, *, ci: str) -> Ran:
    """A test run of one test that needs what isn't there: programs are looked for in an empty PATH."""
    (directory / "test_guarded.py").write_text(
        'import pytest\n\n@pytest.mark.needs("skopeo", "dockerd")\ndef test_guarded():\n    pass\n'
    )
    argv = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-ra", str(directory)]
    env = {"PATH": str(directory), "PYTHONPATH": str(ROOT), "CI": ci, "COLUMNS": "200"}
    return await ran(*argv, env=env)


async def test_a_missing_program_is_a_skip_that_says_what_to_install(tmp_path: Path) -> None:
    """On a developer's machine the other tests are worth running."""
    result = await guarded(tmp_path, ci="")

    assert result.code == 0, str(result)
    assert "1 skipped" in result.output
    assert "needs: apt-get install docker.io skopeo" in result.output


async def test_a_missing_program_is_a_failure_where_ci_is_true(tmp_path: Path) -> None:
    """In CI a test that doesn't run is a test that nobody misses."""
    result = await guarded(tmp_path, ci="true")

    assert result.code == 1, str(result)
    assert "needs: apt-get install docker.io skopeo" in result.output


def test_what_is_here_needs_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A program is here when it is in the PATH."""
    program = tmp_path / "skopeo"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert unmet(["skopeo"], root=False) is None
    assert unmet(list(PACKAGES), root=False) is not None
