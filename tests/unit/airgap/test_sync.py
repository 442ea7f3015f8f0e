"""Sync files: their keys, error messages and schedules."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.airgap.schedule import At, Every, first_due, next_due, parse_schedule
from mirror.airgap.sync import Sync, names_in
from mirror.errors import ListInvalid

SHOWN = Path(__file__).parents[3] / "config" / "sync.toml"
MONDAY = datetime(2026, 11, 23, 12, 0, 30)  # noqa: DTZ001 - schedules are in local time
moments = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1))  # noqa: DTZ001


def read(tmp_path: Path, text: str) -> Sync:
    file = tmp_path / "sync.toml"
    file.write_text(text)
    return Sync.read(file)


def test_example_sync_file_is_valid(tmp_path: Path) -> None:
    """Including the keys that are commented out."""
    sync = read(tmp_path, SHOWN.read_text().replace('# split = "', 'split = "'))
    first, second = sync.entries
    assert first.images == ("alpine:3.20", "ghcr.io/org/app:v1.*=3")
    assert first.platforms == ("linux/amd64", "linux/arm64")
    assert (first.schedule, second.schedule) == (Every(86400), At(3, 0, 6))
    assert (first.pin, first.source, second.source) == (True, None, tmp_path / "images.txt")
    assert sync.export is not None
    assert (sync.export.directory, sync.export.name, sync.export.split) == (tmp_path / "outgoing", "sync", 4 * 2**30)


def test_names_are_collected_from_all_lists(tmp_path: Path) -> None:
    """Names from sync files and image lists are returned once each."""
    (tmp_path / "list.txt").write_text("b:1\na:1\n")
    (tmp_path / "sync.toml").write_text(
        '[[images]]\nimages = ["a:1"]\nfrom = "list.txt"\n[[images]]\nimages = ["c:*"]\n'
    )
    assert names_in(tmp_path / "sync.toml") == ["a:1", "b:1", "c:*"]
    assert names_in(tmp_path / "list.txt") == ["b:1", "a:1"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "images: Field required"),
        ("images = []", "images: List should have at least 1 item"),
        ("[[images]]", "[[images]] number 1: set images or from"),
        ("[[images]]\nimages = [1]", "[[images]] number 1, images item 1: Input should be a valid string"),
        ('[[images]]\nimages = "a"', "[[images]] number 1, images: Input should be a valid list"),
        (
            '[[images]]\nimages = ["a"]\npins = true',
            "[[images]] number 1, pins: unknown key; known keys: at, every, from, images, pin",
        ),
        ('[[images]]\nimages = ["a"]\npin = 1', "[[images]] number 1, pin: Input should be a valid boolean"),
        (
            '[[images]]\nimages = ["a"]\nplatforms = ["linux"]',
            "[[images]] number 1, platforms: 'linux' is not a platform",
        ),
        (
            '[[images]]\nimages = ["a"]\nevery = "1d"\nat = "03:00"',
            "[[images]] number 1: every and at are two schedules",
        ),
        (
            '[[images]]\nimages = ["a"]\nevery = "0s"',
            "[[images]] number 1: every 0s: must be between a second and a year",
        ),
        (
            '[[images]]\nimages = ["a"]\nevery = "10000000d"',
            "[[images]] number 1: every 10000000d: must be between a second and a year",
        ),
        ('[[images]]\nimages = ["a"]\nevery = "often"', "[[images]] number 1: a duration is a number with a unit"),
        ('[[images]]\nimages = ["a"]\nat = "Sunday 3:00"', "[[images]] number 1: at 'Sunday 3:00': set a time"),
        ('at = "25:00"\n[[images]]\nimages = ["a"]', "the file: at '25:00'"),
        ('[[images]]\nimages = ["a"]\n[export]', "export.directory: Field required"),
        (
            '[[images]]\nimages = ["a"]\n[export]\ndirectory = "."\nname = "../x"',
            "export.name: must consist of letters",
        ),
        (
            '[[images]]\nimages = ["a"]\n[export]\ndirectory = "."\nsplit = "1KiB"',
            "export.split: must be at least 1MiB",
        ),
        (
            '[[images]]\nimages = ["a"]\n[export]\nto = "."',
            "export.to: unknown key; known keys: directory, name",
        ),
        ("[[images]", "is not TOML"),
    ],
)
def test_invalid_sync_file_is_explained(tmp_path: Path, text: str, said: str) -> None:
    """The message names the file, the key and the allowed values."""
    with pytest.raises(ListInvalid) as caught:
        read(tmp_path, text)
    assert f"{tmp_path}/sync.toml" in str(caught.value)
    assert said in str(caught.value)


def test_message_has_a_line_for_each_fault(tmp_path: Path) -> None:
    """The first line names the file."""
    with pytest.raises(ListInvalid) as caught:
        read(tmp_path, 'pins = 1\n[[images]]\nimages = ["a"]\npins = {x = 1}\n[export]\ndirectory = 1')
    assert str(caught.value).splitlines() == [
        f"the sync file {tmp_path}/sync.toml can't be used:",
        "  [[images]] number 1, pins: unknown key; known keys: at, every, from, images, pin, platforms",
        "  export.directory: Input should be a valid string",
        "  pins: unknown key; known keys: at, every, export, images",
    ]


def test_missing_sync_file_is_an_error(tmp_path: Path) -> None:
    """The message contains the system's reason."""
    with pytest.raises(ListInvalid, match="No such file"):
        Sync.read(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("at", "due"),
    [
        ("12:01", datetime(2026, 11, 23, 12, 1)),  # noqa: DTZ001
        ("12:00", datetime(2026, 11, 24, 12, 0)),  # noqa: DTZ001
        ("Mon 12:00", datetime(2026, 11, 30, 12, 0)),  # noqa: DTZ001
        ("Tue 00:00", datetime(2026, 11, 24)),  # noqa: DTZ001
        ("Sun 03:00", datetime(2026, 11, 29, 3, 0)),  # noqa: DTZ001
    ],
)
def test_next_due_time_of_a_time_of_day(at: str, due: datetime) -> None:
    """It is always later than now."""
    schedule = parse_schedule(None, at)
    assert schedule is not None
    assert first_due(schedule, MONDAY) == next_due(schedule, MONDAY, failures=0) == due


@given(moments, st.builds(At, st.integers(0, 23), st.integers(0, 59), st.none() | st.integers(0, 6)))
def test_due_time_is_within_a_day_or_week(moment: datetime, at: At) -> None:
    """It has the configured hour, minute and weekday."""
    due = at.after(moment)
    assert moment < due <= moment + timedelta(days=1 if at.weekday is None else 7)
    assert (due.hour, due.minute, due.second, due.microsecond) == (at.hour, at.minute, 0, 0)
    assert at.weekday in (None, due.weekday())


@given(st.floats(1, 1e7), st.integers(0, 2000))
def test_failed_run_is_retried_with_growing_delays(seconds: float, failures: int) -> None:
    """Never later than the next regular due time."""
    schedule = Every(seconds)
    assert first_due(schedule, MONDAY) == MONDAY
    due, patient = (next_due(schedule, MONDAY, failures=number) for number in (failures, failures + 1))
    assert MONDAY < due <= schedule.after(MONDAY)
    assert patient >= due or not failures
    assert not failures or due <= MONDAY + timedelta(seconds=300 * 2 ** min(failures - 1, 20))
