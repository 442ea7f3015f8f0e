"""The OpenVEX document: it names the installed version of diskcache, and its statement is true."""

import inspect
import json
import re
import tomllib
from pathlib import Path

from diskcache import Disk

from mirror.storage.database import JsonRows

ROOT = Path(__file__).parents[2]
[STATEMENT] = json.loads((ROOT / "docs" / "diskcache.openvex.json").read_text())["statements"]


def test_the_statement_is_about_the_locked_version() -> None:
    """A new version of diskcache needs another look at its code."""
    name = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"]
    [locked] = re.findall(r"^diskcache==(\S+)", (ROOT / "requirements" / "run.txt").read_text(), re.MULTILINE)
    assert STATEMENT["products"] == [
        {"@id": f"pkg:pypi/{name}", "subcomponents": [{"@id": f"pkg:pypi/diskcache@{locked}"}]}
    ]
    assert STATEMENT["vulnerability"]["name"] in (ROOT / "SECURITY.md").read_text()


def test_no_method_of_diskcache_touches_a_pickle_or_a_file() -> None:
    """All methods of `Disk` but its constructor and its hash of a key are replaced, and the statement names them."""
    methods = {name for name, _ in inspect.getmembers(Disk, inspect.isfunction)} - {"__init__", "hash"}
    private = {name for name in methods if name.startswith("_")}  # called by the public ones only
    assert methods - private <= JsonRows.__dict__.keys()
    assert all(re.search(rf"\b{name}\b", STATEMENT["impact_statement"]) for name in methods - private)
    assert STATEMENT["status"] == "not_affected"
