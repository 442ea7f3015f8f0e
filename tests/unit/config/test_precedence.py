"""Precedence of sources: flag, variable, file, default; upstreams are merged key by key."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from mirror.cli import command_line, programs
from mirror.config import DEFAULT_UPSTREAMS, Settings, default_cache_path, parse_duration, parse_size, read_settings
from mirror.errors import ConfigurationInvalid
from tests.unit.configurations import KEYS, environment, read, written
from tests.unit.texts import spoiled


@pytest.fixture(autouse=True, scope="module")
def _plain() -> Iterator[None]:
    with environment():
        yield


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config") / "mirror.toml"


PRECEDENCE = [
    ("server", "listen", "MIRROR_SERVER__LISTEN", "a:1", "b:2", "c:3"),
    ("server", "offline", "MIRROR_SERVER__OFFLINE", True, False, True),
    ("cache", "path", "MIRROR_CACHE__PATH", Path("/a"), Path("/b"), Path("/c")),
    ("cache", "max_size", "MIRROR_CACHE__MAX_SIZE", "1GiB", "2GiB", "3GiB"),
    ("cache", "min_free", "MIRROR_CACHE__MIN_FREE", "1MB", "2MB", "3MB"),
    ("cache", "scrub_rate", "MIRROR_CACHE__SCRUB_RATE", "1MB", "2MB", "3MB"),
    ("clients", "verdict_for", "MIRROR_CLIENTS__VERDICT_FOR", "1s", "2s", "3s"),
    ("limits", "connections", "MIRROR_LIMITS__CONNECTIONS", 100, 200, 300),
    ("limits", "head", "MIRROR_LIMITS__HEAD", "1s", "2s", "3s"),
    ("limits", "head_size", "MIRROR_LIMITS__HEAD_SIZE", "2KiB", "3KiB", "4KiB"),
    ("limits", "idle", "MIRROR_LIMITS__IDLE", "1s", "2s", "3s"),
    ("limits", "unread", "MIRROR_LIMITS__UNREAD", "1s", "2s", "3s"),
    ("credentials", "helper_timeout", "MIRROR_CREDENTIALS__HELPER_TIMEOUT", "1s", "2s", "3s"),
    ("tags", "fresh_when_low", "MIRROR_TAGS__FRESH_WHEN_LOW", "1h", "2h", "3h"),
    ("tags", "fresh_for", "MIRROR_TAGS__FRESH_FOR", "1s", "2s", "3s"),
    ("tags", "stale_for", "MIRROR_TAGS__STALE_FOR", "1d", "2d", "3d"),
    ("tags", "missing_for", "MIRROR_TAGS__MISSING_FOR", "1ms", "2ms", "3ms"),
    ("timeouts", "connect", "MIRROR_TIMEOUTS__CONNECT", "1s", "2s", "3s"),
    ("timeouts", "first_byte", "MIRROR_TIMEOUTS__FIRST_BYTE", "1s", "2s", "3s"),
    ("timeouts", "silence", "MIRROR_TIMEOUTS__SILENCE", "1s", "2s", "3s"),
    ("timeouts", "shutdown", "MIRROR_TIMEOUTS__SHUTDOWN", "1s", "2s", "3s"),
    ("log", "format", "MIRROR_LOG__FORMAT", "json", "console", "json"),
    ("log", "level", "MIRROR_LOG__LEVEL", "debug", "warning", "error"),
]


def parsed(section: str, key: str, value: object) -> object:
    if key in {"max_size", "min_free", "scrub_rate", "head_size"}:
        return parse_size(value)
    is_duration = section in {"tags", "timeouts", "clients", "credentials", "limits"} and key != "connections"
    return parse_duration(value) if is_duration else value


def test_every_key_is_in_the_table_of_precedence() -> None:
    """Except the keys of upstreams, which have separate tests."""
    assert {path for path in KEYS if path[0] != "upstreams"} == {(row[0], row[1]) for row in PRECEDENCE}


@pytest.mark.parametrize(("section", "key", "variable", "in_file", "in_variable", "in_flag"), PRECEDENCE)
def test_flag_overrides_variable_overrides_file_overrides_default(
    file: Path, section: str, key: str, variable: str, in_file: object, in_variable: object, in_flag: object
) -> None:
    """This holds for every key."""

    def value(flag: object = None) -> object:
        return getattr(getattr(read(file, text, **{section: {key: flag}}), section), key)

    text = written((section, key), repr(in_file).lower() if isinstance(in_file, bool) else f'"{in_file}"')
    assert value() == parsed(section, key, in_file)
    with environment(**{variable: str(in_variable)}):
        assert value() == parsed(section, key, in_variable)
        assert value(in_flag) == parsed(section, key, in_flag)
    assert value(in_flag) == parsed(section, key, in_flag)
    text = ""
    assert value() == getattr(getattr(read_settings(None, {}, []), section), key)


Taken = Callable[[Settings], str]
FLAGS: list[tuple[str, str, str, str, Taken]] = [
    ("--listen", "MIRROR_LISTEN", "a:1", "b:2", lambda settings: settings.server.listen),
    ("--cache", "MIRROR_CACHE", "/a", "/b", lambda settings: str(settings.cache.path)),
    ("--max-size", "MIRROR_MAX_SIZE", "1", "2", lambda settings: str(settings.cache.max_size)),
    ("--log-format", "MIRROR_LOG_FORMAT", "json", "console", lambda settings: settings.log.format),
    (
        *("--upstream", "MIRROR_UPSTREAM", "quay.io=http://a", "quay.io=http://b"),
        lambda settings: f"quay.io={settings.upstreams['quay.io'].url}",
    ),
]


def served(*arguments: str, **variables: str) -> Settings:
    """Return the settings that `mirror serve` would use."""
    found: list[Settings] = []
    with environment(**variables), pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "serve", found.append)
        result = CliRunner().invoke(command_line, ["serve", *arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    [settings] = found
    return settings


@pytest.mark.parametrize(("flag", "variable", "in_variable", "in_flag", "take"), FLAGS, ids=[row[0] for row in FLAGS])
def test_each_flag_has_a_variable(flag: str, variable: str, in_variable: str, in_flag: str, take: Taken) -> None:
    """The flag overrides it."""
    assert take(served(flag, in_flag)) == in_flag
    assert take(served(**{variable: in_variable})) == in_variable
    assert take(served(flag, in_flag, **{variable: in_variable})) == in_flag


def test_offline_and_config_have_variables_too(file: Path) -> None:
    """A switch, and the path of the file."""
    file.write_text("[server]\noffline = true\nlisten = 'a:1'")
    assert served(MIRROR_OFFLINE="true").server.offline
    assert served(MIRROR_CONFIG=str(file)).server.listen == "a:1"
    assert served("--config", str(file)).server.offline
    assert not served("--config", str(file), "--online").server.offline
    assert not served("--config", str(file), MIRROR_OFFLINE="false").server.offline


@pytest.mark.parametrize(
    "variable", ["MIRROR_TAGS", "MIRROR_SERVER", "MIRROR_TIMEOUTS", "MIRROR_UPSTREAMS", "MIRROR_LOG"]
)
@pytest.mark.parametrize("value", ["5m", "", "[1]", "{"])
def test_variable_of_a_whole_section_is_refused_or_ignored(variable: str, value: str) -> None:
    """No traceback is printed. The message names the section."""
    try:
        with environment(**{variable: value}):
            read_settings(None, {}, [])
    except ConfigurationInvalid as refusal:
        message = str(refusal)
    else:
        return
    assert variable.removeprefix("MIRROR_").lower() in message.lower()


@pytest.mark.parametrize(
    ("variable", "value", "path"),
    [
        ("MIRROR_TAGS__FRESH_FOR", "soon", "tags.fresh_for"),
        ("MIRROR_TAGS__FRESH", "1s", "tags.fresh"),
        ("MIRROR_CACHE__MAX_SIZE", "much", "cache.max_size"),
        ("MIRROR_LOG__LEVEL", "loud", "log.level"),
    ],
)
def test_invalid_variable_is_refused(variable: str, value: str, path: str) -> None:
    """The message has the path of the key, as for the file."""
    with environment(**{variable: value}), pytest.raises(ConfigurationInvalid, match=path):
        read_settings(None, {}, [])


# Upstreams


def test_file_changes_embedded_upstreams_key_by_key(file: Path) -> None:
    """Another spelling is the same upstream; a new name adds one."""
    settings = read(
        file,
        '[upstreams."registry-1.docker.io"]\nusername = "u"\npassword_file = "/p"\n'
        '[upstreams."Quay.IO"]\nurl = "http://q/"\n[upstreams."new.example"]\nurl = "http://n"',
    )
    assert set(settings.upstreams) == {*DEFAULT_UPSTREAMS, "new.example"}
    assert settings.upstreams["docker.io"].username == "u"
    assert settings.upstreams["docker.io"].url == DEFAULT_UPSTREAMS["docker.io"]
    assert settings.upstreams["quay.io"].url == "http://q"
    assert settings.default_upstream == "docker.io"


def test_other_default_upstream_replaces_the_embedded_one(file: Path) -> None:
    """`default = false` leaves no default upstream."""
    assert read(file, '[upstreams."quay.io"]\ndefault = true').default_upstream == "quay.io"
    assert read(file, '[upstreams."docker.io"]\ndefault = false').default_upstream is None


def test_upstream_flag_replaces_the_address_only(file: Path) -> None:
    """The credentials in the file remain."""
    file.write_text('[upstreams."quay.io"]\nusername = "u"\npassword_file = "/p"\nurl = "http://file"')
    settings = read_settings(file, {}, ["quay.io=http://flag", "index.docker.io=http://hub", "new.example=http://n"])
    assert settings.upstreams["quay.io"].url == "http://flag"
    assert settings.upstreams["quay.io"].username == "u"
    assert settings.upstreams["docker.io"].url == "http://hub"
    assert settings.upstreams["new.example"].url == "http://n"
    assert settings.default_upstream == "docker.io"


@given(spoiled(st.just("quay.io=https://quay.io")))
@example("quay.io")
@example("=")
@example("quay.io=")
@example("=http://quay.io")
def test_any_upstream_flag_is_accepted_or_refused(text: str) -> None:
    """Never with a traceback."""
    try:
        settings = read_settings(None, {}, [text])
    except ConfigurationInvalid:
        return
    assert all(upstream.addresses[0].startswith(("http://", "https://")) for upstream in settings.upstreams.values())


def test_default_cache_is_below_the_cache_directory_of_the_user() -> None:
    """XDG Base Directory Specification: a relative XDG_CACHE_HOME is ignored."""
    with environment(XDG_CACHE_HOME="/x", HOME="/h"):
        assert default_cache_path() == Path("/x/mirror")
    for unset in ("", "relative"):
        with environment(XDG_CACHE_HOME=unset, HOME="/h"):
            assert default_cache_path() == Path("/h/.cache/mirror")
