"""Access rules: the first match decides, however a repository is spelled."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.auth.rules import ANONYMOUS_CALLER, Caller, Rule, Rules, can_match, canonical_pattern, is_user
from mirror.errors import ConfigurationInvalid, Denied
from mirror.oci.digest import Digest
from mirror.oci.names import DOCKER_HUB, Repository, Upstreams
from mirror.oci.routes import Api, Probe, RequestedRepository, TokenRoute, parse_route
from tests.unit.configurations import environment, read
from tests.unit.texts import names

HOSTS = ("docker.io", "quay.io", "localhost:5001")
UPSTREAMS = Upstreams(HOSTS, default=DOCKER_HUB)
DIGEST = Digest.of(b"")

callers = st.sampled_from([ANONYMOUS_CALLER, *map(Caller, ("alice", "ci-1", "ci-*", "[x]", "Alice", "a\N{SNOWMAN}"))])
repositories = st.builds(
    lambda host, name: UPSTREAMS.repository(f"{host}/{name}", ns=None)[0],
    st.sampled_from(HOSTS),
    names.filter(lambda name: len(name) < 100)
    | st.sampled_from(["team/app", "team/app/x", "alpine", "library/alpine"]),
)
user_globs = st.sampled_from(["*", "alice", "ci-*", "ci-?", "anonymous", "[a-c]*", "[!a]*", "[[]x]", "A*", "a\n", ""])
globs = st.sampled_from(
    ["*", "docker.io/*", "*/alpine", "docker.io/library/*", "*/team/*", "quay.io/te?m/app", "localhost:5001/*"]
) | st.builds(
    lambda repository, start, end, glob: repository.key[:start] + glob + repository.key[start + end :],
    repositories,
    st.integers(0, 30),
    st.integers(0, 3),
    st.sampled_from(["", "*", "?", "[a-z]", "[!a-z]", "[", "*.*"]),
)
rules = st.lists(
    st.builds(
        Rule,
        st.lists(user_globs, min_size=1, max_size=3).map(tuple),
        st.lists(globs, min_size=1, max_size=3).map(tuple),
        st.booleans(),
    ),
    max_size=5,
)


def allowed(rules: Rules, caller: Caller, repository: Repository) -> bool:
    """Return whether the rules allow the pull."""
    try:
        rules.require_allowed(caller, repository)
    except Denied:
        return False
    return True


def modeled(rules: Iterable[Rule], caller: Caller, repository: Repository) -> bool:
    """Return the verdict, computed as the documentation describes it."""
    for rule in rules:
        for_user = any(fnmatchcase(caller.name, glob) for glob in rule.users)
        if for_user and any(fnmatchcase(repository.key, canonical_pattern(glob)) for glob in rule.repositories):
            return rule.allow
    return False


@given(rules, callers, repositories)
def test_first_matching_rule_decides(rules: list[Rule], caller: Caller, repository: Repository) -> None:
    """A rule must match user and repository. No match: denied. The cached verdict equals the first."""
    expected = modeled(rules, caller, repository)
    ours = Rules(rules)
    assert [allowed(ours, caller, repository) for _ in range(2)] == [expected] * 2


@given(rules, callers, repositories)
def test_denial_names_user_repository_and_rule(rules: list[Rule], caller: Caller, repository: Repository) -> None:
    """The message also names the section of the configuration to change."""
    try:
        Rules(rules).require_allowed(caller, repository)
    except Denied as denied:
        failure = denied
    else:
        return
    said = str(failure)
    assert str(repository) in said
    assert (caller.user or "a client without a login") in said
    assert "[[access]]" in said
    assert (failure.status, failure.code) == (403, "DENIED")
    if rules and "denies" in said:
        number = int(said.partition("rule ")[2].split()[0])
        assert not rules[number - 1].allow
        assert not modeled(rules[:number], caller, repository)


@st.composite
def spelled(draw: st.DrawFn) -> tuple[Repository, str]:
    """A repository, and one of the request targets that address it."""
    repository = draw(repositories)
    host = draw(st.sampled_from([repository.upstream, repository.upstream.upper(), repository.upstream.title()]))
    name = repository.name
    if repository.upstream == DOCKER_HUB:
        host = draw(st.sampled_from([host, "index.docker.io", "registry-1.docker.io", "Index.Docker.IO"]))
        short = name.removeprefix("library/")
        if "/" not in short:
            name = draw(st.sampled_from([name, short]))
    other = draw(st.sampled_from([*HOSTS, "index.docker.io"]))
    ways = [
        f"/v2/{host}/{name}",
        f"/{host}/v2/{name}",
        f"/v2/{host}/{name}?ns={other}",
        f"/{host}/v2/{name}?ns={other}",
    ]
    if name.partition("/")[0] not in HOSTS:
        ways += [
            f"/v2/{name}?ns={host.replace(':', draw(st.sampled_from([':', '%3A', '%3a'])))}",
            f"/v2/{name}?n=1&ns={host}&last=a",
        ]
        if repository.upstream == DOCKER_HUB:
            ways += [f"/v2/{name}", f"/v2/{name}?n=1"]
    path, mark, query = draw(st.sampled_from(ways)).partition("?")
    colon = draw(st.sampled_from([":", "%3A", "%3a"]))
    digest = str(DIGEST).replace(":", colon)
    kind = draw(
        st.sampled_from(["manifests/v1", f"manifests/{digest}", f"blobs/{digest}", f"referrers/{digest}", "tags/list"])
    )
    return repository, f"{path.replace('localhost:', f'localhost{colon}')}/{kind}{mark}{query}"


def requested_repository(target: str) -> RequestedRepository:
    route = parse_route(target, UPSTREAMS)
    assert not isinstance(route, Api | Probe | TokenRoute)
    return route.requested


@given(spelled(), rules, callers)
def test_no_spelling_of_a_target_bypasses_a_rule(
    spelled: tuple[Repository, str], rules: list[Rule], caller: Caller
) -> None:
    """Path, prefix, ns, aliases of Docker Hub, library/, case, encoded colons: one repository, one verdict."""
    repository, target = spelled
    assert requested_repository(target).repository == repository
    assert allowed(Rules(rules), caller, requested_repository(target).repository) == modeled(rules, caller, repository)


@given(repositories, st.sampled_from(["{}", "{}*", "{}?"]), callers)
def test_all_spellings_of_a_pattern_are_equivalent(repository: Repository, form: str, caller: Caller) -> None:
    """index.docker.io and Docker.IO are docker.io; docker.io/alpine is docker.io/library/alpine."""
    hosts = [repository.upstream, repository.upstream.upper()]
    named = [repository.name]
    if repository.upstream == DOCKER_HUB:
        hosts += ["index.docker.io", "Registry-1.docker.io"]
        short = repository.name.removeprefix("library/")
        named += [short] if "/" not in short and form == "{}" else []
    verdicts = {
        allowed(Rules([Rule(("*",), (form.format(f"{host}/{name}"),), allow=True)]), caller, repository)
        for host in hosts
        for name in named
    }
    assert verdicts == {form != "{}?"}


@given(globs, repositories)
def test_rejected_pattern_matches_nothing(glob: str, repository: Repository) -> None:
    """A rule for `alpine` instead of docker.io/library/alpine is an error, not a rule without effect."""
    if not can_match(glob, HOSTS):
        assert not allowed(Rules([Rule(("*",), (glob,), allow=True)]), ANONYMOUS_CALLER, repository)


@pytest.mark.parametrize("pattern", ["alpine", "library/alpine", "docker.io", "docker.io/", "nowhere.test/*", "", "/*"])
def test_rule_without_a_configured_upstream_is_refused(tmp_path: Path, pattern: str) -> None:
    """The message names the rule, the pattern and the correct form."""
    text = f'[[access]]\nallow = true\n[[access]]\nrepositories = ["docker.io/*", "{pattern}"]\nallow = false'
    with environment(), pytest.raises(ConfigurationInvalid) as refusal:
        read(tmp_path / "mirror.toml", text)
    assert f"[[access]] number 2, repositories: {pattern!r} matches nothing" in str(refusal.value)
    assert "docker.io/library/alpine" in str(refusal.value)


@pytest.mark.parametrize(
    "pattern", ["*", "*.io/x", "d?cker.io/x", "docker.io/alpine", "QUAY.io/*", "index.docker.io/*"]
)
def test_rule_for_a_configured_upstream_or_a_glob_is_accepted(tmp_path: Path, pattern: str) -> None:
    """A glob that matches the upstream's name is accepted too."""
    with environment():
        settings = read(tmp_path / "mirror.toml", f'[[access]]\nrepositories = ["{pattern}"]\nallow = true')
    assert settings.access[0].repositories == (pattern,)


@pytest.mark.parametrize("key", ["users", "repositories"])
def test_rule_with_an_empty_list_is_refused(tmp_path: Path, key: str) -> None:
    """The rule could never match."""
    with environment(), pytest.raises(ConfigurationInvalid, match=rf"\[\[access\]\] number 1, {key}: "):
        read(tmp_path / "mirror.toml", f"[[access]]\n{key} = []\nallow = true")


@given(st.text(max_size=300))
def test_valid_user_name_is_printable(name: str) -> None:
    """It can't break a line of the log, and differs from the name of anonymous callers."""
    if is_user(name):
        assert name
        assert name.isprintable()
        assert Caller(name).name != ANONYMOUS_CALLER.name
