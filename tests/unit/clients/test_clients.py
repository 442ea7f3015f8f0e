"""Client configuration files: merged with existing files, keeping everything else in them."""

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomlkit
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mirror.clients import (
    BUILDKIT,
    CLIENTS,
    CONTAINERD,
    DOCKER,
    K3S,
    KANIKO,
    KUBERNETES,
    PODMAN,
    Address,
    Client,
    Mirrored,
)
from mirror.clients.file import ClientFile
from mirror.clients.mentions import mentions
from mirror.errors import ClientConfigurationInvalid, ConfigurationInvalid

HERE = Mirrored(Address.parse("http://127.0.0.1:5000"), ("docker.io", "quay.io"))
THERE = Mirrored(Address.parse("http://mirror.lan:5000"), ("docker.io", "quay.io"))
SECURE = Mirrored(Address.parse("https://mirror.lan"), ("docker.io",))
WITH_FILES = [client for client in CLIENTS.values() if client.path]

words = st.text("abcxyz0189._-", min_size=1, max_size=6)
hosts = st.sampled_from(["docker.io", "quay.io", "mirror.lan:5000", "127.0.0.1:5000", "other.example", "x y"])
urls = st.sampled_from(["http://mirror.lan:5000", "http://127.0.0.1:5000", "https://other.example", "http://a/b"])
leaves = st.one_of(st.booleans(), st.integers(-99, 99), words, st.lists(words, max_size=3))
tables = st.dictionaries(words, leaves, max_size=3)


def parts(value: object, path: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    """Yield each leaf of a document with its path; the position in a list does not count."""
    if isinstance(value, dict):
        yield from ((*path, key, "is there") for key in value)
        for key, below in value.items():
            yield from parts(below, (*path, key))
    elif isinstance(value, list):
        for below in value:
            name = below.get("location") if isinstance(below, dict) else below
            yield from parts(below, (*path, str(name)))
    else:
        yield (*path, value)


def keeps(before: object, after: object, *, but: tuple[str, ...] = ()) -> bool:
    """Return whether *after* contains all of *before*, except for the keys in *but*."""
    return {one for one in parts(before) if not set(but) & set(map(str, one))} <= set(parts(after))


@given(
    others=st.dictionaries(words, leaves, max_size=3),
    mirrors=st.lists(urls, max_size=3, unique=True),
    insecure=st.lists(hosts, max_size=3, unique=True),
    indent=st.sampled_from([None, 1, 4, "\t"]),
    mirrored=st.sampled_from([HERE, THERE, SECURE]),
)
def test_docker_merge_keeps_other_keys_and_mirrors(
    others: dict[str, Any], mirrors: list[str], insecure: list[str], indent: int | str | None, mirrored: Mirrored
) -> None:
    """The mirror comes first, everything else stays, and merging is idempotent."""
    before = {**others, "registry-mirrors": mirrors, "insecure-registries": insecure}

    once = DOCKER.merged(json.dumps(before, indent=indent), mirrored)
    after = json.loads(once)

    assert after["registry-mirrors"][0] == mirrored.address.url
    assert keeps(before, after)
    assert len(after["registry-mirrors"]) == len(set(after["registry-mirrors"]))
    assert DOCKER.merged(once, mirrored) == once


@given(
    top=st.dictionaries(st.sampled_from(["server", "ca"]), words, max_size=2),
    hosts=st.dictionaries(
        urls,
        st.dictionaries(st.sampled_from(["skip_verify", "client"]), st.booleans(), max_size=2)
        | st.fixed_dictionaries({"capabilities": st.lists(st.sampled_from(["pull", "push", "resolve"]), unique=True)})
        | st.fixed_dictionaries({"header": st.dictionaries(words, words, max_size=2)}),
        max_size=3,
    ),
    mirrored=st.sampled_from([HERE, THERE, SECURE]),
)
def test_containerd_merge_keeps_other_hosts_in_order(
    top: dict[str, str], hosts: dict[str, Any], mirrored: Mirrored
) -> None:
    """The mirror is the first host, the others follow unchanged, and merging is idempotent."""
    before = {**top, "host": hosts} if hosts else dict(top)

    once = CONTAINERD.merged(tomlkit.dumps(before), mirrored)
    after = tomllib.loads(once)

    url = mirrored.address.url
    assert list(after["host"]) == [url, *(one for one in hosts if one != url)]
    assert {"pull", "resolve"} <= set(after["host"][url]["capabilities"])
    assert keeps(before, after)
    assert CONTAINERD.merged(once, mirrored) == once


@given(
    others=st.dictionaries(words.map(lambda word: f"k{word}"), leaves | tables, max_size=3),
    registries=st.dictionaries(
        hosts,
        st.fixed_dictionaries(
            {},
            optional={
                "mirrors": st.lists(hosts, max_size=3, unique=True),
                "http": st.booleans(),
                "ca": st.lists(words),
            },
        ),
        max_size=4,
    ),
    mirrored=st.sampled_from([HERE, THERE, SECURE]),
)
def test_buildkit_merge_keeps_other_registries(
    others: dict[str, Any], registries: dict[str, Any], mirrored: Mirrored
) -> None:
    """The mirror is each registry's first, everything else stays, and merging is idempotent."""
    before = {**others, "registry": registries} if registries else others

    once = BUILDKIT.merged(tomlkit.dumps(before), mirrored)
    after = tomllib.loads(once)

    host = mirrored.address.host
    assert all(after["registry"][name]["mirrors"][0] == host for name in mirrored.upstreams)
    assert after["registry"].get(host, {}).get("http", False) == mirrored.address.is_plain
    assert keeps(before, after, but=("http",))
    assert BUILDKIT.merged(once, mirrored) == once


@given(
    registries=st.lists(
        st.fixed_dictionaries(
            {"location": hosts},
            optional={
                "blocked": st.booleans(),
                "mirror": st.lists(
                    st.fixed_dictionaries({"location": st.sampled_from(["mirror.lan:5000/quay.io", "a/b", "c"])}),
                    unique_by=lambda one: one["location"],
                    max_size=3,
                ),
            },
        ),
        unique_by=lambda one: str(one["location"]),
        max_size=4,
    ),
    mirrored=st.sampled_from([HERE, THERE, SECURE]),
)
def test_podman_merge_keeps_other_registries(registries: list[dict[str, Any]], mirrored: Mirrored) -> None:
    """Each registry has the mirror, everything else stays, and merging is idempotent."""
    before = {"registry": registries} if registries else {}

    once = PODMAN.merged(tomlkit.dumps(before), mirrored)
    after = tomllib.loads(once)

    for name in mirrored.upstreams:
        (registry,) = (one for one in after["registry"] if one["location"] == name)
        (ours,) = (one for one in registry["mirror"] if one["location"] == f"{mirrored.address.host}/{name}")
        assert ours.get("insecure", False) == mirrored.address.is_plain
    assert keeps(before, after)
    assert PODMAN.merged(once, mirrored) == once


@given(
    mirrors=st.dictionaries(
        hosts, st.fixed_dictionaries({"endpoint": st.lists(urls, unique=True)}) | tables, max_size=3
    ),
    configs=st.dictionaries(hosts, st.fixed_dictionaries({"auth": tables}), max_size=2),
    mirrored=st.sampled_from([HERE, THERE, SECURE]),
)
def test_k3s_merge_keeps_other_endpoints(mirrors: dict[str, Any], configs: dict[str, Any], mirrored: Mirrored) -> None:
    """The mirror is each registry's first endpoint, everything else stays, and merging is idempotent."""
    before = {"mirrors": mirrors, "configs": configs}

    once = K3S.merged(yaml.safe_dump(before), mirrored)
    after = yaml.safe_load(once)

    assert all(after["mirrors"][name]["endpoint"][0] == mirrored.address.url for name in mirrored.upstreams)
    assert keeps(before, after)
    assert K3S.merged(once, mirrored) == once


@pytest.mark.parametrize("client", WITH_FILES, ids=lambda client: client.name)
@pytest.mark.parametrize("mirrored", [HERE, THERE, SECURE], ids=["loopback", "http", "https"])
def test_merging_into_the_printed_file_changes_nothing(client: Client, mirrored: Mirrored) -> None:
    """A new file is complete, and an empty file counts as none."""
    printed = client.merged(None, mirrored)

    assert client.merged(printed, mirrored) == printed
    assert client.merged("", mirrored) == printed


def test_merging_keeps_comments() -> None:
    """Comments stay above the lines that they describe."""
    hosts = '# the cluster\nserver = "https://s"  # why\n\n# the old one\n[host."https://old"]\n  ca = "x" # hm\n'
    assert CONTAINERD.merged(hosts, HERE) == (
        '# the cluster\nserver = "https://s"  # why\n\n'
        '[host."http://127.0.0.1:5000"]\ncapabilities = ["pull", "resolve"]\n\n'
        '# the old one\n[host."https://old"]\n  ca = "x" # hm\n'
    )
    buildkit = '# builds\ndebug = true\n[registry."docker.io"]\n  mirrors = [\n    "old", # the old one\n  ]\n'
    merged = BUILDKIT.merged(buildkit, HERE)
    assert merged.startswith("# builds\ndebug = true\n")
    assert "# the old one" in merged
    podman = '# short\nunqualified-search-registries = ["docker.io"] # ours\n[aliases]\n"a" = "docker.io/a" # alias\n'
    merged = PODMAN.merged(podman, HERE)
    assert all(comment in merged for comment in ("# short", "# ours", "# alias"))


BROKEN = {
    "docker": ['{"registry-mirrors": [', "[]", '{"registry-mirrors": "x"}', '{"a": NaN}', "[" * 100_000],
    "containerd": ["[host", "host = 1", '[host]\n"http://127.0.0.1:5000" = 1', 'host = {"https://old" = {}}'],
    "podman": ["[[registry]", "registry = 1", "[registry]\na = 1"],
    "buildkit": ["[registry", "registry = 1", '[registry."docker.io"]\nmirrors = "x"', '[registry]\n"docker.io" = 1'],
    "k3s": ["a: [", "- a", "mirrors: 1", "mirrors: {docker.io: {endpoint: x}}", "a: &a [*a]\nb: !!python/none x"],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in BROKEN.items() for text in texts])
def test_broken_file_is_refused(name: str, text: str) -> None:
    """A file that can't be parsed or edited safely is an error."""
    with pytest.raises(ClientConfigurationInvalid):
        CLIENTS[name].merged(text, HERE)


def test_plain_http_is_allowed_only_for_a_mirror_without_tls() -> None:
    """https needs no exception; dockerd needs none for loopback addresses either."""
    assert "insecure-registries" not in json.loads(DOCKER.merged(None, HERE))
    assert json.loads(DOCKER.merged(None, THERE))["insecure-registries"] == ["mirror.lan:5000"]
    for client in CLIENTS.values():
        assert "insecure" not in client.merged(None, SECURE)
        assert "http = true" not in client.merged(None, SECURE)


def test_docker_requires_docker_hub_as_the_default() -> None:
    """dockerd does not name the registry in its requests."""
    elsewhere = Mirrored(HERE.address, HERE.upstreams, default="quay.io")
    with pytest.raises(ClientConfigurationInvalid, match="default = true"):
        DOCKER.merged(None, elsewhere)


def test_kaniko_flags_use_its_name_of_docker_hub() -> None:
    """One flag per line."""
    assert KANIKO.merged(None, THERE).splitlines() == [
        "--registry-map=index.docker.io=mirror.lan:5000/docker.io",
        "--registry-map=quay.io=mirror.lan:5000/quay.io",
        "--insecure-registry=mirror.lan:5000",
    ]


def test_kubernetes_manifests_install_hosts_toml() -> None:
    """The manifests are YAML and contain hosts.toml as printed for containerd."""
    configuration, installer = yaml.safe_load_all(KUBERNETES.merged(None, THERE))
    assert configuration["data"]["hosts.toml"] == CONTAINERD.merged(None, THERE)
    pod = installer["spec"]["template"]["spec"]
    assert pod["volumes"][1]["hostPath"]["path"] == "/etc/containerd/certs.d"


def test_advice_explains_the_login_of_a_mirror_with_users() -> None:
    """No advice mentions a login if the mirror has no users."""
    asking = Mirrored(THERE.address, THERE.upstreams, has_users=True)
    for client in CLIENTS.values():
        if client is not KUBERNETES:
            assert "This mirror has users" in "\n".join(client.advice(asking)), client.name
            assert "This mirror has users" not in "\n".join(client.advice(THERE)), client.name


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("https://Mirror.LAN/", "https://mirror.lan"),
        ("http://[::1]:05000", "http://[::1]:5000"),
    ],
)
def test_address_is_normalized(text: str, url: str) -> None:
    """Each address has one spelling."""
    assert Address.parse(text).url == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mirror:5000",
        "ftp://m",
        "http://",
        "http://u:p@m",
        "http://m/path",
        "http://m?x",
        "http://m:0",
        "http://m:99999",
        'http://m"\n',
        "http://m m",
        "http://::1",
    ],
)
def test_invalid_address_is_refused(text: str) -> None:
    """All clients accept a scheme, a host and a port, and nothing else."""
    with pytest.raises(ConfigurationInvalid, match="--mirror"):
        Address.parse(text)


def test_mirror_is_detected_anywhere_in_a_configuration() -> None:
    """A URL, the beginning of a location and a key count; a host that only resembles it does not."""
    here = HERE.address
    for client in (DOCKER, CONTAINERD, PODMAN, BUILDKIT):
        assert mentions(client.merged(None, HERE), here)
        assert not mentions(client.merged(None, THERE), here)
    assert not mentions('a = "127.0.0.1:50000"', here)
    with pytest.raises(ClientConfigurationInvalid):
        mentions("{", here)


def test_file_is_replaced_with_its_mode_and_a_backup(tmp_path: Path) -> None:
    """The backup has the same mode, so that it is readable to the same users only."""
    (tmp_path / "etc").mkdir()
    file = tmp_path / "etc/x.toml"
    file.write_text("before")
    file.chmod(0o600)

    backup = ClientFile(tmp_path, "/etc/x.toml").write("after", instead_of="before")

    assert backup is not None
    assert (file.read_text(), backup.read_text()) == ("after", "before")
    assert file.stat().st_mode & 0o777 == backup.stat().st_mode & 0o777 == 0o600
    assert {one.name for one in file.parent.iterdir()} == {"x.toml", backup.name}
    assert backup.name.startswith("x.toml.bak-")


def test_file_that_changed_in_the_meantime_is_kept(tmp_path: Path) -> None:
    """The file may change between reading it and the confirmation of the operator."""
    file = tmp_path / "x"
    file.write_text("theirs")
    with pytest.raises(ClientConfigurationInvalid, match="in the meantime"):
        ClientFile(tmp_path, "/x").write("ours", instead_of="before")
    assert file.read_text() == "theirs"


def test_link_is_followed_within_its_root_only(tmp_path: Path) -> None:
    """A link in a system image must not change files of this machine."""
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/real").write_text("before")
    (root / "etc/inside").symlink_to("real")
    (root / "etc/outside").symlink_to(tmp_path / "elsewhere")

    ClientFile(root, "/etc/inside").write("after", instead_of="before")

    assert (root / "etc/inside").is_symlink()
    assert (root / "etc/real").read_text() == "after"
    with pytest.raises(ClientConfigurationInvalid, match="leads out"):
        ClientFile(root, "/etc/outside")
