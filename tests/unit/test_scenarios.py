"""The list of scenarios is complete: every number once, each with tests, and each test exists."""

import ast
import re
from functools import lru_cache
from pathlib import Path

TESTS = Path(__file__).parents[1]
LIST = TESTS / "SCENARIOS.md"
NUMBERS = [*(f"C{number}" for number in range(1, 49)), *(f"P{number}" for number in range(1, 40))]
BLACK_BOX = {"http", "clients", "airgap", "crash", "soak"}  # folders whose tests see the mirror from outside only
ROW = re.compile(r"\| (\S+) \| (.+) \| (.*) \|")
TEST = re.compile(r"`([a-z_]+)/([a-z_]+\.py)::(test_[a-z0-9_]+)`")


def rows() -> list[tuple[str, str, str]]:
    """Return number, rule and tests of each row, in the order of the file."""
    lines = LIST.read_text().splitlines()
    return [(found[1], found[2], found[3]) for line in lines if (found := ROW.fullmatch(line)) and found[1] != "number"]


@lru_cache
def names_in(file: Path) -> frozenset[str]:
    """Return the names of the functions at the top level of a file."""
    tree = ast.parse(file.read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_number_exists_once_and_in_order() -> None:
    """A missing number is a missing rule; a repeated one has two rules."""
    assert [number for number, _, _ in rows()] == NUMBERS


def test_every_line_of_a_table_is_a_row() -> None:
    """A line that doesn't parse would not be checked."""
    lines = [line for line in LIST.read_text().splitlines() if line.startswith("|")]
    assert len(lines) == len(NUMBERS) + 2 * 2  # two tables, each with a heading and a rule below it


def test_every_row_has_a_rule_and_tests() -> None:
    """The last column contains only tests."""
    for number, rule, tests in rows():
        assert rule.endswith("."), number
        assert TEST.findall(tests), number
        assert not TEST.sub("", tests).strip(), number


def test_every_named_test_exists_and_is_a_black_box_test() -> None:
    """It is at the top level of its file, in a folder of black-box tests."""
    for number, _, tests in rows():
        for folder, file, name in TEST.findall(tests):
            assert folder in BLACK_BOX, f"{number}: {folder}"
            assert name in names_in(TESTS / folder / file), f"{number}: {file}::{name}"


def test_no_test_is_named_twice_in_a_row() -> None:
    """A repeated test adds nothing."""
    for number, _, tests in rows():
        named = TEST.findall(tests)
        assert len(named) == len(set(named)), number
