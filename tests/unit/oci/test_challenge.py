"""Challenges in WWW-Authenticate: the forms that registries send, and arbitrary headers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.oci.challenge import Basic, Bearer, Challenge, parse_challenges
from tests.unit.texts import anything

quotable = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
realms = st.sampled_from(["https://auth.example/token", "https://r.example/v2/auth?a=b,c", "http://[::1]:5001/t"])
bearers = st.builds(Bearer, realms, st.none() | quotable.filter(bool), st.none() | quotable.filter(bool))
challenges = st.just(Basic()) | bearers
_PLAIN = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~+/:")


@st.composite
def _parameter(draw: st.DrawFn, name: str, value: str) -> str:
    name = draw(st.sampled_from([name, name.upper(), name.title()]))
    equals = draw(st.sampled_from(["=", " = ", "= "]))
    if set(value) <= _PLAIN and draw(st.booleans()):
        return f"{name}{equals}{value}"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{name}{equals}"{escaped}"'


@st.composite
def written(draw: st.DrawFn, challenge: Challenge) -> str:
    """One of the spellings of a challenge: any order, case, spacing and quoting, and unknown parameters."""
    if isinstance(challenge, Basic):
        scheme, known = "basic", {"realm": draw(quotable)}
    else:
        known = {"realm": challenge.realm, "service": challenge.service or "", "scope": challenge.scope or ""}
        known = {name: value for name, value in known.items() if value}
        scheme = "bearer"
    parameters = [draw(_parameter(name, value)) for name, value in known.items()]
    parameters += draw(st.lists(st.sampled_from(['error="invalid_token"', "charset=UTF-8"]), max_size=2, unique=True))
    spelled = draw(st.sampled_from([scheme, scheme.title(), scheme.upper()]))
    return f"{spelled} {draw(st.sampled_from([',', ', ', ' ,  ', ',,'])).join(draw(st.permutations(parameters)))}"


@given(st.data(), st.lists(challenges, max_size=3))
def test_challenges_survive_every_spelling(data: st.DataObject, wanted: list[Challenge]) -> None:
    """They are in one header or several, in order, among unknown schemes."""
    texts = [data.draw(written(one)) for one in wanted]
    assert parse_challenges(texts) == tuple(wanted)
    others = data.draw(st.lists(st.sampled_from(["Negotiate", "NTLM TlRMTVNTUAAC==", 'Digest realm="a, Basic b"'])))
    assert parse_challenges([", ".join([*others, *texts])]) == tuple(wanted)
    assert parse_challenges([", ".join([*texts, *others])]) == tuple(wanted)


@given(st.lists(anything(challenges.flatmap(written))))
def test_any_header_parses_without_an_error(headers: list[str]) -> None:
    """Unparsable parts yield no challenge; every Bearer challenge has a realm."""
    for challenge in parse_challenges(headers):
        assert isinstance(challenge, Basic) or challenge.realm


@pytest.mark.parametrize(
    ("header", "challenge"),
    [
        (
            'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/a:pull"',
            Bearer("https://auth.docker.io/token", "registry.docker.io", "repository:library/a:pull"),
        ),
        (
            'Bearer realm="https://ghcr.io/token",service="ghcr.io",scope="repository:user/image:pull"',
            Bearer("https://ghcr.io/token", "ghcr.io", "repository:user/image:pull"),
        ),
        (
            'Bearer realm="https://quay.io/v2/auth",service="quay.io"',
            Bearer("https://quay.io/v2/auth", "quay.io", None),
        ),
        (  # NVCR: no service
            'Bearer realm="https://nvcr.io/proxy_auth",scope="repository:nvidia/cuda:pull,push"',
            Bearer("https://nvcr.io/proxy_auth", None, "repository:nvidia/cuda:pull,push"),
        ),
        (  # registry.k8s.io: only a realm
            'Bearer realm="https://registry.k8s.io/token"',
            Bearer("https://registry.k8s.io/token", None, None),
        ),
        (  # ACR
            'Bearer realm="https://a.azurecr.io/oauth2/token",service="a.azurecr.io",scope="repository:b:pull",error="x"',
            Bearer("https://a.azurecr.io/oauth2/token", "a.azurecr.io", "repository:b:pull"),
        ),
        (  # GitLab
            'Bearer realm="https://gitlab.com/jwt/auth",service="container_registry",scope="repository:g/p:pull"',
            Bearer("https://gitlab.com/jwt/auth", "container_registry", "repository:g/p:pull"),
        ),
        (  # unquoted, as some registries write it
            "bearer realm=https://auth.example/token, service=example",
            Bearer("https://auth.example/token", "example", None),
        ),
        ('Basic realm="https://1.dkr.ecr.eu-west-1.amazonaws.com/",service="ecr.amazonaws.com"', Basic()),
        ('Basic realm="Registry Realm"', Basic()),
        ("Basic", Basic()),
        ("BASIC realm=x", Basic()),
    ],
)
def test_challenges_of_real_registries_parse(header: str, challenge: Challenge) -> None:
    """Each registry has its own spelling."""
    assert parse_challenges([header]) == (challenge,)


@pytest.mark.parametrize(
    "header",
    [
        "",
        ",",
        "Bearer",
        'Bearer service="a"',
        'Bearer realm=""',
        'Bearer realm="https://unended',
        "Negotiate",
        '"',
        "=",
        'Bearer realm="https://auth.test",scope="a\udcffb"',
        'Bearer realm="https://auth.test\x7f"',
    ],
)
def test_unusable_header_yields_no_challenge(header: str) -> None:
    """A Bearer without a realm is unusable, and so is one with bytes that can't go into a request."""
    assert parse_challenges([header]) == ()
