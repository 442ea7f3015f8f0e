"""The pytest mark `needs` of tests/conftest.py: a missing program skips a test, or fails it with CI=true."""

import sys
from pathlib import Path

import pytest

from tests.real.machine import PACKAGES, unmet
from tests.real.mirror import ROOT
from tests.real.program import Ran, ran


async def guarded(directory: Path, *, ci: str) -> Ran:
    """Run one test that needs programs, with an empty PATH."""
    (directory / "test_guarded.py").write_text(
        'import pytest\n\n@pytest.mark.needs("skopeo", "dockerd")\ndef test_guarded():\n    pass\n'
    )
    argv = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-ra", str(directory)]
    env = {"PATH": str(directory), "PYTHONPATH": str(ROOT), "CI": ci, "COLUMNS": "200"}
    return await ran(*argv, env=env)


async def test_missing_program_skips_with_package_name(tmp_path: Path) -> None:
    """The other tests still run on a developer's machine."""
    result = await guarded(tmp_path, ci="")

    assert result.code == 0, str(result)
    assert "1 skipped" in result.output
    assert "needs: apt-get install docker.io skopeo" in result.output


async def test_missing_program_fails_in_ci(tmp_path: Path) -> None:
    """In CI a skipped test would go unnoticed."""
    result = await guarded(tmp_path, ci="true")

    assert result.code == 1, str(result)
    assert "needs: apt-get install docker.io skopeo" in result.output


def test_available_program_is_no_unmet_need(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A program is available when it is in the PATH."""
    program = tmp_path / "skopeo"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert unmet(["skopeo"], root=False) is None
    assert unmet(list(PACKAGES), root=False) is not None
