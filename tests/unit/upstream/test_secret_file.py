"""Secret files: reloaded when they change; an invalid file prevents the start, and has no effect later."""

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mirror.errors import ConfigurationInvalid
from mirror.upstream.credentials.secret_file import SecretFile


class Clock:
    """Clock that advances past the check interval with each call."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 2.0
        return self.now


def number(content: bytes) -> int:
    try:
        return int(content)
    except ValueError:
        raise ValueError("it is no number") from None


def of(path: Path) -> SecretFile[int]:
    return SecretFile("the.key", path, number, clock=Clock())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("1")
    return path


def test_changed_file_is_reloaded(path: Path) -> None:
    """Overwritten, or replaced by another file, as `docker login` and mounted secrets do."""
    file = of(path)
    assert file.content() == 1
    path.write_text("22")
    assert file.content() == 22
    other = path.with_name("other")
    other.write_text("33")
    other.rename(path)
    assert file.content() == 33


def test_file_is_checked_once_a_second_at_most(path: Path) -> None:
    """A caller may require a check now."""
    file = SecretFile("the.key", path, number, clock=lambda: 0.0)
    path.write_text("22")
    assert file.content() == 1
    assert file.content(at_once=True) == 22


@pytest.mark.parametrize("content", [b"hidden", b"\xff", b"", None, b"1" * 2**21])
def test_invalid_file_prevents_the_start(path: Path, content: bytes | None) -> None:
    """The message contains the key, the path and the reason, and nothing of the content."""
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ConfigurationInvalid, match=rf"the\.key .*{path.name} (can't be|has more)") as refusal:
        of(path)
    assert "hidden" not in str(refusal.value)
    assert refusal.value.__cause__ is None or isinstance(refusal.value.__cause__, OSError)


@pytest.mark.parametrize("content", [b"hidden", None])
def test_invalid_change_keeps_the_last_valid_content(path: Path, content: bytes | None) -> None:
    """It causes a single warning; a valid file is loaded again."""
    file = of(path)
    with capture_logs() as events:
        path.unlink() if content is None else path.write_bytes(content)
        assert [file.content() for _ in range(3)] == [1, 1, 1]
    assert [event["event"] for event in events] == ["secret_file_broken"]
    assert "hidden" not in str(events)
    path.write_text("55")
    assert file.content() == 55


def test_pipe_is_read_only_once(path: Path) -> None:
    """A shell's <(…): a second read would block forever."""
    end, writing = os.pipe()
    os.write(writing, b"7")
    os.close(writing)
    file = of(Path(f"/dev/fd/{end}"))
    assert [file.content(), file.content(at_once=True)] == [7, 7]
    os.close(end)
