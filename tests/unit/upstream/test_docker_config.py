"""docker's config.json, in the variants that clients and people write."""

import json
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.oci.authorization import Login, Token
from mirror.upstream.credentials.docker_config import DockerConfig, host_of
from mirror.upstream.credentials.source import Credentials, IdentityToken, is_text
from tests.unit.texts import anything, hosts

texts = st.text(st.characters(codec="utf-8"), min_size=1).filter(is_text)
secrets = texts.filter(lambda secret: not secret.endswith("\0"))


def basic(text: str) -> str:
    return b64encode(text.encode()).decode()


def config(**members: object) -> DockerConfig:
    return DockerConfig.parse(json.dumps(members).encode())


@given(hosts, texts.filter(lambda name: ":" not in name), secrets, st.booleans())
def test_login_is_user_name_and_password(host: str, username: str, password: str, encoded: bool) -> None:
    """It is base64 as docker writes it (the first colon ends the name), or two strings."""
    plain = {"username": username, "password": password}
    entry: dict[str, str] = {"auth": basic(f"{username}:{password}")} if encoded else plain
    assert config(auths={host: entry}).logins == {host: Login(username, password)}


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ({"auth": basic("me:secret")}, Login("me", "secret")),
        ({"auth": basic("me:secret\0\0")}, Login("me", "secret")),
        ({"auth": basic("me:")}, Login("me", "")),
        ({"auth": basic("me:secret"), "email": 7, "username": "x"}, Login("me", "secret")),
        ({"auth": basic("00000000-0000-0000-0000-000000000000:"), "identitytoken": "t"}, IdentityToken("t")),
        ({"identitytoken": "t"}, IdentityToken("t")),
        ({"registrytoken": "r", "identitytoken": "t"}, Token("r")),
        *(({}, None), (None, None), ({"auth": ""}, None), ({"auth": None}, None), ({"username": "me"}, None)),
    ],
)
def test_every_kind_of_entry(entry: object, found: Credentials | None) -> None:
    """An entry without a secret is not a login: it only records that the user logged in there."""
    assert config(auths={"quay.io": entry}).logins.get("quay.io") == found


@pytest.mark.parametrize(
    ("key", "host"),
    [
        *(("quay.io", "quay.io"), ("https://quay.io", "quay.io"), ("http://quay.io/", "quay.io")),
        *(("https://quay.io/v2/", "quay.io"), ("quay.io/team", "quay.io"), ("Quay.IO", "quay.io")),
        *(("localhost:5000", "localhost:5000"), ("https://localhost:5000/v1/", "localhost:5000")),
        *(("docker.io", "docker.io"), ("index.docker.io", "docker.io"), ("registry-1.docker.io", "docker.io")),
        *(("https://index.docker.io/v1/", "docker.io"), ("https://registry-1.docker.io/v2/", "docker.io")),
        ("[::1]:5000", "[::1]:5000"),
    ],
)
def test_every_spelling_of_a_host(key: str, host: str) -> None:
    """The scheme, port and path are optional; Docker Hub has four names."""
    entry = {"auth": basic("me:secret")}
    assert config(auths={key: entry}).logins == {host: Login("me", "secret")}
    assert config(credHelpers={key: "x"}).helper(host) == "x"


@pytest.mark.parametrize("partly", ["quay.io/team", "https://quay.io/v1/access-token", "quay.io/v2/team"])
def test_login_for_a_whole_host_overrides_one_for_a_path(partly: str) -> None:
    """podman writes logins for a path; one applies to the host if the host has no login, as in docker."""
    part, whole = {"auth": basic("part:x")}, {"auth": basic("whole:x")}
    assert config(auths={partly: part, "quay.io": whole}).logins == {"quay.io": Login("whole", "x")}
    assert config(auths={partly: part}).logins == {"quay.io": Login("part", "x")}


def test_host_helper_overrides_the_global_one() -> None:
    """credHelpers takes precedence over credsStore; an empty string means that the file has the login."""
    found = config(credsStore="pass", credHelpers={"a.test": "ecr-login", "b.test": ""})
    assert [found.helper(host) for host in ("a.test", "b.test", "c.test")] == ["ecr-login", None, "pass"]
    assert config(credsStore="").helper("a.test") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *((b"", "not JSON"), (b"{", "not JSON"), (b"\xff\xfe hidden", "not JSON"), (b"[" * 100_000, "not JSON")),
        *((b'"hidden"', "it is not a JSON object"), (b"[]", "it is not"), (b'{"auths": ["hidden"]}', "auths is not")),
        (b'{"auths": {"quay.io": "hidden"}}', r"auths\.quay\.io is not"),
        (b'{"auths": {"quay.io": {"auth": "hidden!"}}}', r"auths\.quay\.io\.auth is not base64"),
        (json.dumps({"auths": {"q": {"auth": basic("hidden")}}}).encode(), "USERNAME:PASSWORD"),
        (json.dumps({"auths": {"q": {"auth": basic(":hidden")}}}).encode(), "USERNAME:PASSWORD"),
        (json.dumps({"auths": {"q": {"auth": basic("me:hid\r\nden")}}}).encode(), "USERNAME:PASSWORD"),
        (b'{"auths": {"q": {"auth": 7}}}', "auth must be a string"),
        (b'{"auths": {"q": {"username": "me", "password": "hidden\\ud800"}}}', "password must be a string"),
        (b'{"auths": {"q": {"registrytoken": "hidden \xc3\xa9"}}}', "registrytoken is not a valid token"),
        (b'{"credHelpers": {"q": "../../tmp/evil"}}', r"credHelpers\.q must be"),
        *((b'{"credHelpers": {"q": 7}}', "must be"), (b'{"credsStore": "a b"}', "credsStore must be")),
        *((b'{"credsStore": "-x"}', "must be"), (b'{"credsStore": ["pass"]}', "must be")),
    ],
)
def test_invalid_value_is_named_by_key_and_not_shown(content: bytes, message: str) -> None:
    """A helper name with a slash is invalid, as it could bypass the PATH."""
    with pytest.raises(ValueError, match=message) as refusal:
        DockerConfig.parse(content)
    assert "hidden" not in str(refusal.value)


_any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)
_SECRETS = ("auth", "identitytoken", "registrytoken", "username")
_entries = st.fixed_dictionaries({}, optional=dict.fromkeys(_SECRETS, _any))


@given(
    st.binary()
    | st.fixed_dictionaries(
        {},
        optional={
            "auths": st.dictionaries(anything(hosts), _entries | _any, max_size=3) | _any,
            "credHelpers": st.dictionaries(anything(hosts), _any, max_size=3) | _any,
            "credsStore": _any,
        },
    ).map(lambda found: json.dumps(found).encode())
)
def test_any_file_is_parsed_or_rejected(content: bytes) -> None:
    """The rejection is always a ValueError; each parsed login is valid in a header."""
    try:
        found = DockerConfig.parse(content)
    except ValueError:
        return
    for host, credentials in found.logins.items():
        assert host == host_of(host)
        if not isinstance(credentials, IdentityToken):
            assert credentials.header().isascii()
            assert credentials.header().isprintable()


def test_repr_contains_no_secret() -> None:
    """A log of the parsed file is harmless."""
    entries = ({"auth": basic("me:hidden")}, {"identitytoken": "hidden"}, {"registrytoken": "hidden"})
    assert "hidden" not in repr(config(auths={f"{number}.test": entry for number, entry in enumerate(entries)}))
