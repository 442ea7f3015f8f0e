"""What the files of deploy/ tell the mirror is what it can be told."""

import re
from pathlib import Path

import pytest
from click import ClickException

from tests.deploy.files import DEPLOY, FILES
from tests.deploy.program import check_command, variables


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(DEPLOY)))
def test_every_variable_is_one(file: Path) -> None:
    """A misspelt one would be passed over in silence."""
    assert set(re.findall(r"\bMIRROR_[A-Z_]+\b", file.read_text())) <= variables()


def test_what_is_checked_here_can_fail() -> None:
    """The names that the tests of this folder hold files to are not all there are."""
    assert {"MIRROR_LISTEN", "MIRROR_TAGS__FRESH_FOR"} <= variables()
    assert "MIRROR_SIZE" not in variables()
    check_command(["client-config", "containerd", "--write", "--yes", "--root", "/host"])
    for words in (["serve", "--size=1"], ["client-config", "containerd", "--force"], ["client-config", "rkt"]):
        with pytest.raises(ClickException):
            check_command(words)
