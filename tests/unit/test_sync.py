"""Sync files: what they say, and when it is due."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.airgap.schedule import At, Every, first_due, next_due, parse_schedule
from mirror.airgap.sync import Sync, names_in
from mirror.errors import ListInvalid

SHOWN = Path(__file__).parents[2] / "config" / "sync.toml"
MONDAY = datetime(2026, 11, 23, 12, 0, 30)  # noqa: DTZ001 - schedules are in local time
moments = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1))  # noqa: DTZ001


def read(tmp_path: Path, text: str) -> Sync:
    file = tmp_path / "sync.toml"
    file.write_text(text)
    return Sync.read(file)


def test_the_example_says_what_it_says(tmp_path: Path) -> None:
    """Every key of it is one; those that are commented out too."""
    sync = read(tmp_path, SHOWN.read_text().replace('# split = "', 'split = "'))
    first, second = sync.entries
    assert first.images == ("alpine:3.20", "ghcr.io/org/app:v1.*=3")
    assert first.platforms == ("linux/amd64", "linux/arm64")
    assert (first.schedule, second.schedule) == (Every(86400), At(3, 0, 6))
    assert (first.pin, first.source, second.source) == (True, None, tmp_path / "images.txt")
    assert sync.export is not None
    assert (sync.export.directory, sync.export.name, sync.export.split) == (tmp_path / "outgoing", "sync", 4 * 2**30)


def test_names_come_from_all_lists(tmp_path: Path) -> None:
    """Each once, also for commands that only want the names."""
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
        ("[[images]]", "images.0: images or from"),
        ("[[images]]\nimages = [1]", "images.0.images.0: Input should be a valid string"),
        ('[[images]]\nimages = "a"', "images.0.images: Input should be a valid list"),
        (
            '[[images]]\nimages = ["a"]\npins = true',
            "images.0.pins: unknown key; known here: at, every, from, images, pin",
        ),
        ('[[images]]\nimages = ["a"]\npin = 1', "images.0.pin: Input should be a valid boolean"),
        ('[[images]]\nimages = ["a"]\nplatforms = ["linux"]', "images.0.platforms: 'linux' is not a platform"),
        ('[[images]]\nimages = ["a"]\nevery = "1d"\nat = "03:00"', "images.0: every and at are two schedules"),
        ('[[images]]\nimages = ["a"]\nevery = "0s"', "images.0: every 0s: from a second to a year"),
        ('[[images]]\nimages = ["a"]\nevery = "10000000d"', "images.0: every 10000000d: from a second to a year"),
        ('[[images]]\nimages = ["a"]\nevery = "often"', "images.0: a duration is a number with a unit"),
        ('[[images]]\nimages = ["a"]\nat = "Sunday 3:00"', "images.0: at 'Sunday 3:00': write a time"),
        ('at = "25:00"\n[[images]]\nimages = ["a"]', "all of it: at '25:00'"),
        ('[[images]]\nimages = ["a"]\n[export]', "export.directory: Field required"),
        ('[[images]]\nimages = ["a"]\n[export]\ndirectory = "."\nname = "../x"', "export.name: a name of letters"),
        (
            '[[images]]\nimages = ["a"]\n[export]\ndirectory = "."\nsplit = "1KiB"',
            "export.split: parts of less than 1MiB",
        ),
        (
            '[[images]]\nimages = ["a"]\n[export]\nto = "."',
            "export.to: unknown key; known here: directory, name",
        ),
        ("[[images]", "is not TOML"),
    ],
)
def test_what_makes_no_sense_is_said(tmp_path: Path, text: str, said: str) -> None:
    """With the file, the key, and what is allowed there."""
    with pytest.raises(ListInvalid) as caught:
        read(tmp_path, text)
    assert f"{tmp_path}/sync.toml" in str(caught.value)
    assert said in str(caught.value)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    """By its name."""
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
def test_a_time_of_the_week(at: str, due: datetime) -> None:
    """The next one, never this very moment."""
    schedule = parse_schedule(None, at)
    assert schedule is not None
    assert first_due(schedule, MONDAY) == next_due(schedule, MONDAY, failures=0) == due


@given(moments, st.builds(At, st.integers(0, 23), st.integers(0, 59), st.none() | st.integers(0, 6)))
def test_a_time_comes_within_its_period(moment: datetime, at: At) -> None:
    """After the moment, at that hour and minute, at most a day or a week later."""
    due = at.after(moment)
    assert moment < due <= moment + timedelta(days=1 if at.weekday is None else 7)
    assert (due.hour, due.minute, due.second, due.microsecond) == (at.hour, at.minute, 0, 0)
    assert at.weekday in (None, due.weekday())


@given(st.floats(1, 1e7), st.integers(0, 2000))
def test_what_failed_is_tried_again_before_long(seconds: float, failures: int) -> None:
    """More and more rarely, and never later than it would be due anyway."""
    schedule = Every(seconds)
    assert first_due(schedule, MONDAY) == MONDAY
    due, patient = (next_due(schedule, MONDAY, failures=number) for number in (failures, failures + 1))
    assert MONDAY < due <= schedule.after(MONDAY)
    assert patient >= due or not failures
    assert not failures or due <= MONDAY + timedelta(seconds=300 * 2 ** min(failures - 1, 20))
