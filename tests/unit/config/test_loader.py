"""Settings: every key is read and validated; a fault is refused with the key's path and the allowed values."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mirror.config import DEFAULT_UPSTREAMS, AccessRule, UpstreamSettings, parse_duration, parse_size, read_settings
from mirror.errors import ConfigurationInvalid
from tests.unit.configurations import KEYS, SHOWN, SHOWN_KEYS, environment, read, written
from tests.unit.texts import anything

FEW = [path for path in KEYS if path[0] != "upstreams" or path[1] in {"docker.io", "quay.io"}]


@pytest.fixture(autouse=True, scope="module")
def _plain() -> Iterator[None]:
    with environment():
        yield


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config") / "mirror.toml"


def said(file: Path, text: str) -> str:
    """Return the message with which this configuration is refused."""
    with pytest.raises(ConfigurationInvalid) as refusal:
        read(file, text)
    message = str(refusal.value)
    assert len(message) < 2000
    assert str(file) in message
    return message


def test_shipped_file_equals_the_defaults() -> None:
    """Using config/mirror.toml unchanged has no effect."""
    with environment(XDG_CACHE_HOME="/nowhere"):
        assert read_settings(SHOWN, {}, []) == read_settings(None, {}, [])


def test_shipped_file_contains_every_key() -> None:
    """Keys without a default are in comments."""
    every: set[tuple[str, ...]] = {
        (name, key)
        for name, section in read_settings(None, {}, [])
        if name not in {"upstreams", "access"}
        for key in type(section).model_fields
    }
    every |= {("upstreams", name, key) for name in DEFAULT_UPSTREAMS for key in ("url", "default")}
    assert every >= SHOWN_KEYS
    commented = set(re.findall(r"(?m)^# +(\w+) = ", SHOWN.read_text()))
    assert {key for *_, key in every - SHOWN_KEYS} <= commented
    of_upstreams = set(UpstreamSettings.model_fields) - {"url", "default"}
    assert commented == {key for *_, key in every - SHOWN_KEYS} | of_upstreams | set(AccessRule.model_fields)


@pytest.mark.parametrize("path", FEW, ids=".".join)
@pytest.mark.parametrize("value", ["{ a = 1 }", "[1]", "1979-05-27"])
def test_value_of_a_wrong_type_is_refused_with_its_path(file: Path, path: tuple[str, ...], value: str) -> None:
    """A table, an array, a date."""
    assert ".".join(path) in said(file, written(path, value))


@pytest.mark.parametrize("path", [path for path in FEW if path != ("cache", "path")], ids=".".join)
def test_invalid_value_is_refused_with_path_and_value(file: Path, path: tuple[str, ...]) -> None:
    """The message names the key, the value found and the values allowed."""
    message = said(file, written(path, '"utter nonsense"'))
    assert ".".join(path) in message
    assert "'utter nonsense'" in message
    key = path[-1]
    allowed = {
        "listen": "127.0.0.1:5000",
        "max_size": "50GiB",
        "min_free": "50GiB",
        "scrub_rate": "50GiB",
        "head_size": "50GiB",
        "connections": "integer",
        "url": "https://",
        "format": "'json'",
        "level": "'debug'",
        "offline": "boolean",
        "default": "boolean",
    }
    assert allowed.get(key, "60s") in message


WRONG = {
    "server = 1": "server: must be a section: write [server]",
    "upstreams.x = 1": "upstreams.x: must be a section: write [upstreams.x]",
    "access = 1": "access: must be a section: write [[access]] for each rule",
    "access = [1]": "[[access]] number 1: must be a section: write [[access]] for each rule",
    '[[access]]\nallow = true\nusers = "a"': "[[access]] number 1, users: must be a list",
    "[[access]]\nusers = ['a']": "[[access]] number 1, allow: must be set",
    "[clients]\nusers_file = 1": "clients.users_file: must be a path, in quotes (found 1)",
    "[server]\nlisten = 1": "server.listen: must be text, in quotes (found 1)",
    "[server]\noffline = 'maybe'": "server.offline: must be a boolean: true or false (found 'maybe')",
    "[log]\nlevel = 'x'": "log.level: must be 'debug', ",
    "[limits]\nconnections = 1.5": "limits.connections: must be an integer (found 1.5)",
    "[limits]\nconnections = 0": "limits.connections: must be greater than ",
    "[credentials]\nhelper = 1": "credentials.helper: unknown key; known keys: docker_config, helper_timeout (found 1)",
    "[upstreams.url]\nkey = 1": "upstreams.url.key: unknown key; known keys: ca_file, certificate_file, ",
    "[[access]]\nallow = true\nx = 1": "[[access]] number 1, x: unknown key; known keys: allow, repositories, users (f",
}


@pytest.mark.parametrize(("text", "words"), WRONG.items())
def test_fault_is_explained_in_terms_of_toml(file: Path, text: str, words: str) -> None:
    """The message mentions no class or validation library."""
    message = said(file, text)
    assert words in message
    assert not re.search("Input|Settings|instance|tuple|pathlib|Value error|Field", message)


@pytest.mark.parametrize("path", FEW, ids=".".join)
def test_unknown_key_is_refused_with_its_path(file: Path, path: tuple[str, ...]) -> None:
    """The message lists the keys of the section."""
    unknown = (*path[:-1], f"{path[-1]}_x")
    message = said(file, written(unknown, "1"))
    assert ".".join(unknown) in message
    assert re.search(rf"known keys: .*\b{path[-1]}\b", message)


@pytest.mark.parametrize("text", ["bogus = 1", "[bogus]\na = 1", '["server "]\na = 1', "[Server]\nlisten = 'a:1'"])
def test_unknown_section_is_refused(file: Path, text: str) -> None:
    """An unknown key outside sections is refused too."""
    assert "unknown key" in said(file, text)


def test_upstream_without_quotes_is_explained(file: Path) -> None:
    """TOML reads the dots of its name as nested tables."""
    assert 'write [upstreams."docker.io"]' in said(file, '[upstreams.docker.io]\nurl = "https://a.example"')


def test_message_has_a_line_for_each_fault(file: Path) -> None:
    """All faults are reported at once."""
    message = said(file, '[server]\nlisten = "nowhere"\nport = 1\n[cache]\nmax_size = "much"\n[tags]\nfresh_for = -1')
    assert [line.strip().partition(":")[0] for line in message.splitlines()[1:]] == [
        *("server.listen", "server.port", "cache.max_size", "tags.fresh_for"),
    ]


@pytest.mark.parametrize(
    "listen",
    [
        *("", ":5000", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:x", "::1:5000"),
        *("[::1]", "http://127.0.0.1:5000", "[::1:5000", "::1]:5000", "a]:80", "foo bar:80", "x/y:80", "a:\u0663"),
    ],
)
def test_invalid_listen_address_is_refused(file: Path, listen: str) -> None:
    """It must be HOST:PORT, with brackets around an IPv6 address."""
    assert "server.listen" in said(file, f'[server]\nlisten = "{listen}"')


@pytest.mark.parametrize(
    ("listen", "host", "port"),
    [
        ("127.0.0.1:5000", "127.0.0.1", 5000),
        ("localhost:0", "localhost", 0),
        ("[::1]:65535", "::1", 65535),
        ("0.0.0.0:80", "0.0.0.0", 80),
    ],
)
def test_listen_address_parses_to_host_and_port(file: Path, listen: str, host: str, port: int) -> None:
    """An IPv6 address without its brackets."""
    server = read(file, f'[server]\nlisten = "{listen}"').server
    assert (server.host, server.port) == (host, port)


@pytest.mark.parametrize(
    "url",
    [
        *("", "quay.io", "ftp://quay.io", "http://", "https://user:secret@quay.io", "https://quay.io?a=b"),
        *("https://quay.io#a", "https://quay.io:0", "https://quay.io:99999", "https://[::1", "https://quay .io"),
        *("https://quay.io/a b", "https://quay.io\\u0000", "//quay.io", "https://quay.io/\\u0000", "https:quay.io"),
    ],
)
def test_invalid_upstream_url_is_refused(file: Path, url: str) -> None:
    """A URL with a login is refused too: it would appear in logs."""
    message = said(file, f'[upstreams."quay.io"]\nurl = "{url}"')
    assert "upstreams.quay.io.url" in message


@pytest.mark.parametrize("name", ["", "a b", "user@host", "a/b", "http://a", "..", "-a", "a-", "a:b", "a:999999", "é"])
def test_upstream_name_that_is_no_host_is_refused(file: Path, name: str) -> None:
    """Clients send it in paths and in ns."""
    assert "upstream's name" in said(file, f'[upstreams."{name}"]\nurl = "https://quay.io"')


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            '[upstreams."a"]\nurl = "http://a"\ndefault = true\n[upstreams."b"]\nurl = "http://b"\ndefault = true',
            "only one upstream",
        ),
        ('[upstreams."A.io"]\nurl = "http://a"\n[upstreams."a.io"]\nurl = "http://b"', "configured twice"),
        (
            '[upstreams."index.docker.io"]\nurl = "http://a"\n[upstreams."docker.io"]\nurl = "http://b"',
            "configured twice",
        ),
        ('[upstreams."quay.io"]\nusername = "a"', "password_file"),
        ('[upstreams."quay.io"]\npassword_file = "/secret"', "username"),
        ('[upstreams."new.example"]\ndefault = false', "url"),
        ('[upstreams."quay.io"]\nurl = "http://a"\nurls = ["http://b"]', "either url, or urls"),
        ('[upstreams."quay.io"]\nusername = "a"\npassword_file = "/p"\ncredential_helper = "b"', "one of them"),
        ('[upstreams."quay.io"]\ncredential_helper = "../b"', "docker-credential-"),
        ('[upstreams."quay.io"]\ncertificate_file = "/c"', "key_file"),
        ("[server]\nkey_file = '/k'", "certificate_file"),
        ('[upstreams."quay.io"]\nclient_auth = "passthrough"\ncredential_helper = "b"', "as the client"),
        (
            '[upstreams."quay.io"]\nclient_auth = "passthrough"\ncertificate_file = "/c"\nkey_file = "/k"',
            "certificate_file",
        ),
        ('[clients]\nusers_file = "/u"\n[upstreams."quay.io"]\nclient_auth = "passthrough"', "users_file"),
        ("[[access]]\nusers = ['a']", "allow"),
        ("[limits]\nhead_size = 10", "1KiB"),
        ("[timeouts]\nconnect = 0", "longer than 0s"),
        ("[timeouts]\nsilence = '0s'", "longer than 0s"),
    ],
)
def test_contradiction_is_refused(file: Path, text: str, complaint: str) -> None:
    """Each value alone may be valid."""
    assert complaint in said(file, text)


@pytest.mark.parametrize("value", ["inf", "nan", "-inf", "1e999", '"' + "9" * 400 + 's"', "-1", "true"])
def test_invalid_duration_is_refused(file: Path, value: str) -> None:
    """A duration that no timer can be set to is refused too."""
    assert "timeouts.first_byte" in said(file, f"[timeouts]\nfirst_byte = {value}")


@pytest.mark.parametrize(
    "value", ["-1", "1.5", "inf", "true", '"-1"', '"1e9"', '"50gib"', '"50 GiB free"', '"GiB"', '""']
)
def test_invalid_size_is_refused(file: Path, value: str) -> None:
    """It must be bytes, or a number with a unit, in this case."""
    assert "cache.max_size" in said(file, f"[cache]\nmax_size = {value}")


def test_unreadable_file_is_refused_by_name(file: Path, tmp_path: Path) -> None:
    """Missing, a directory, or not TOML."""
    with pytest.raises(ConfigurationInvalid, match=r"none\.toml can't be read: No such file"):
        read_settings(tmp_path / "none.toml", {}, [])
    with pytest.raises(ConfigurationInvalid, match="can't be read: Is a directory"):
        read_settings(tmp_path, {}, [])
    assert "not TOML" in said(file, "[server")
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationInvalid, match="not TOML"):
        read_settings(file, {}, [])


def test_message_shows_no_password(file: Path) -> None:
    """The value of an unknown key may be a password."""
    assert "hunter2" not in said(file, '[upstreams."quay.io"]\npassword = "hunter2"')


values = st.sampled_from(
    ['"1s"', '"1GiB"', "1", "-1", "0.5", "true", '""', "[]", "{}", "inf", "nan", "1979-05-27", "9" * 400, '"a:1"']
) | st.text(max_size=5).map(lambda text: f"'{text}'")
tomls = st.lists(st.tuples(st.sampled_from(FEW), values), max_size=4).map(
    lambda pairs: "\n".join(written(path, value) for path, value in pairs)
)


@given(
    anything(tomls, st.just(SHOWN.read_text())).filter(lambda text: text.encode("utf-8", "replace").decode() == text)
)
@example("a = " + "9" * 5000)
@example("a = " + "[" * 5000)
@example("upstreams = 1")
@example("[upstreams]\na = 1")
@example("[[upstreams]]\na = 1")
@example('[cache]\nmax_size = "' + "9" * 400 + '"')
@example('[cache]\npath = "\\u0000"')
def test_any_file_is_read_or_refused_by_name(file: Path, text: str) -> None:
    """Never with another exception."""
    file.write_text(text)
    try:
        read_settings(file, {}, [])
    except ConfigurationInvalid as refusal:
        message = str(refusal)
    else:
        return
    assert str(file) in message


# Sizes and durations

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    f"{letter}iB": 2 ** (10 * power) for power, letter in enumerate("KMGT", start=1)
}
SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


@given(st.integers(0, 2**63), st.sampled_from(sorted(UNITS)), st.sampled_from(["", " "]))
def test_size_is_exact(number: int, unit: str, space: str) -> None:
    """No byte is lost by rounding."""
    assert parse_size(number) == number
    assert parse_size(f"{number}{space}{unit}") == number * UNITS[unit]


def test_size_may_be_a_fraction_of_its_unit() -> None:
    """The result is whole bytes."""
    assert parse_size("1.5GiB") == 3 * 2**29
    assert parse_size("0.5KB") == 500


@given(st.integers(0, 10**6), st.sampled_from(sorted(SECONDS)))
def test_duration_parses_to_seconds(number: int, unit: str) -> None:
    """Each unit is known."""
    assert parse_duration(f"{number}{unit}") == pytest.approx(number * SECONDS[unit])
    assert parse_duration(number) == number


@given(
    anything(st.sampled_from(["50GiB", "1.5MB", "60s", "30d"]))
    | st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.lists(st.integers()),
)
@example("9" * 400)
@example("9" * 400 + "d")
def test_any_value_is_a_quantity_or_is_refused(value: object) -> None:
    """The refusal is a ValueError, which becomes the message for the key."""
    for parse in (parse_size, parse_duration):
        try:
            quantity = parse(value)
        except ValueError:
            continue
        assert 0 <= quantity < float("inf")
