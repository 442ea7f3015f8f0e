"""Environment variables and command lines in deploy/ are known to the program."""

import re
from pathlib import Path

import pytest
from click import ClickException

from tests.deploy.files import DEPLOY, FILES
from tests.deploy.program import check_command, variables


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(DEPLOY)))
def test_every_variable_is_known(file: Path) -> None:
    """A misspelt variable would be silently ignored."""
    assert set(re.findall(r"\bMIRROR_[A-Z_]+\b", file.read_text())) <= variables()


def test_unknown_variables_and_arguments_are_detected() -> None:
    """The checks reject unknown variables, flags and arguments."""
    assert {"MIRROR_LISTEN", "MIRROR_TAGS__FRESH_FOR"} <= variables()
    assert "MIRROR_SIZE" not in variables()
    check_command(["client-config", "containerd", "--write", "--yes", "--root", "/host"])
    for arguments in (["serve", "--size=1"], ["client-config", "containerd", "--force"], ["client-config", "rkt"]):
        with pytest.raises(ClickException):
            check_command(arguments)
