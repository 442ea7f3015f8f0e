"""Kubernetes' manifests: valid for old and new clusters, without rights, and in agreement with the program."""

import sys
import tomllib
from pathlib import Path

import kubernetes_validate
import pytest

from mirror.config import parse_size, read_settings
from tests.deploy.files import ROOT
from tests.deploy.manifests import KINDS, Object, configuration, containers, main_container, only, pod, rendered
from tests.deploy.program import check_command
from tests.fake.registry import Registry
from tests.http.client import Client
from tests.real.mirror import environment as program_environment
from tests.real.mirror import mirror
from tests.real.program import succeeded
from tests.unit.configurations import environment

OLDEST = "1.29"  # of the versions that the manifests are for
BOTH = pytest.mark.parametrize("name", KINDS)

pytestmark = pytest.mark.needs("kubectl")


@BOTH
def test_each_object_is_what_kubernetes_takes(name: str) -> None:
    """By its own schemas, where a key too many is an error."""
    assert len(rendered(name)) > 3
    for one in rendered(name):
        for version in (OLDEST, kubernetes_validate.latest_version()):
            kubernetes_validate.validate(one, version, strict=True)


def test_a_key_too_many_is_seen() -> None:
    """The schemas are no formality."""
    wrong = {**only("node", "DaemonSet"), "specs": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, OLDEST, strict=True)


@BOTH
def test_every_object_is_in_the_kustomizations_namespace(name: str) -> None:
    """And selectors find the pods."""
    namespace = only(name, "Namespace")["metadata"]["name"]
    labels = only(name, KINDS[name])["spec"]["template"]["metadata"]["labels"]
    for one in rendered(name):
        assert one["kind"] == "Namespace" or one["metadata"]["namespace"] == namespace, one["kind"]
        spec = one.get("spec", {})
        selector = spec.get("podSelector", spec.get("selector", {}))
        assert selector.get("matchLabels", selector) in ({}, labels), one["kind"]


@BOTH
def test_no_container_may_more_than_it_needs(name: str) -> None:
    """The restricted standard for all but what prepares the node, and that has one right at most."""
    assert pod(name)["enableServiceLinks"] is pod(name)["automountServiceAccountToken"] is False
    assert not pod(name).keys() & {"hostNetwork", "hostPID", "hostIPC"}
    security = pod(name)["securityContext"]
    assert security["runAsNonRoot"]
    assert security["runAsUser"] > 999
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    for one in containers(name):
        own = one["securityContext"]
        assert own["allowPrivilegeEscalation"] is False, one["name"]
        assert own["readOnlyRootFilesystem"] is True, one["name"]
        more = {"add": ["CHOWN"]} if one["name"] == "cache" else {}
        assert own["capabilities"] == {"drop": ["ALL"], **more}, one["name"]
        assert "memory" in one["resources"]["limits"], one["name"]
    assert not {"runAsUser", "runAsNonRoot", "privileged"} & main_container(name)["securityContext"].keys()


def test_the_cluster_keeps_to_the_restricted_standard() -> None:
    """Its namespace asks for it: no directory and no port of a node."""
    labels = only("cluster", "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert all(volume.keys() <= {"name", "configMap", "emptyDir"} for volume in pod("cluster")["volumes"])
    assert all("hostPort" not in port for one in containers("cluster") for port in one["ports"])


def test_the_node_gives_two_directories_and_a_port_of_its_own() -> None:
    """That port on loopback only."""
    paths = [volume["hostPath"]["path"] for volume in pod("node")["volumes"] if "hostPath" in volume]
    assert paths == ["/var/cache/registry-mirror", "/etc/containerd/certs.d"]
    assert [port["hostIP"] for port in main_container("node")["ports"]] == ["127.0.0.1"]


@BOTH
def test_the_configuration_fits_what_is_around_it(name: str, tmp_path: Path) -> None:
    """The cache has room, the port is the one that is asked, and the mirror ends before it is ended."""
    file = tmp_path / "mirror.toml"
    file.write_text(configuration(name))
    with environment():
        settings = read_settings(file, {}, [])
    main = main_container(name)
    mounts = {mount["mountPath"]: mount["name"] for mount in main["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod(name)["volumes"]}
    assert mounts[str(settings.cache.path)] == "cache"
    assert volumes[mounts["/etc/mirror"]]["configMap"]["name"] == only(name, "ConfigMap")["metadata"]["name"]
    assert [port["containerPort"] for port in main["ports"]] == [settings.server.port]
    check_command(main["args"])
    pause = float(main.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])[1])
    assert pod(name)["terminationGracePeriodSeconds"] >= pause + settings.timeouts.shutdown + 10
    if name == "cluster":
        (claim,) = only(name, "StatefulSet")["spec"]["volumeClaimTemplates"]
        assert claim["metadata"]["name"] == "cache"
        room = parse_size(claim["spec"]["resources"]["requests"]["storage"] + "B")
        assert settings.cache.max_size + settings.cache.min_free < room * 0.95
        (port,) = only(name, "Service")["spec"]["ports"]
        assert (port["port"], port["targetPort"]) == (settings.server.port, main["ports"][0]["name"])


@BOTH
def test_the_image_is_this_version(name: str) -> None:
    """In all containers."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {one["image"] for one in containers(name)} == {f"registry.example.com/mirror:{version}"}


@BOTH
async def test_probes_are_answered_while_upstream_is_down(name: str, tmp_path: Path) -> None:
    """A mirror that is taken out because a registry is down would take away what is cached, too."""
    file = tmp_path / "mirror.toml"
    file.write_text(configuration(name))
    async with Registry.running() as hub:
        gone = hub.url
    upstreams = {"docker.io": gone}
    async with (
        mirror(tmp_path / "run", "--config", str(file), upstreams=upstreams) as running,
        Client.of(running.url) as client,
    ):
        assert (await client.get("/v2/library/app/manifests/v1")).status == 503
        assert b'"docker.io": "down"' in (await client.get("/readyz")).body
        probes = {key: probe for key, probe in main_container(name).items() if key.endswith("Probe")}
        assert probes.keys() == {"startupProbe", "livenessProbe", "readinessProbe"}
        for probe in probes.values():
            assert probe["httpGet"]["port"] == "http"
            assert (await client.get(probe["httpGet"]["path"])).status == 200


async def test_containerd_is_told_of_the_nodes_port(tmp_path: Path) -> None:
    """By the program itself, below the directory at which the node's is mounted."""
    (told,) = (one for one in containers("node") if one["name"] == "containerd")
    check_command(told["args"])
    (mount,) = told["volumeMounts"]
    root = told["args"][told["args"].index("--root") + 1]
    words = [str(tmp_path) if word == root else word for word in told["args"]]
    await succeeded(sys.executable, "-m", "mirror", *words, env=program_environment())
    path = f"{mount['mountPath'].removeprefix(root)}/_default/hosts.toml"
    hosts = tomllib.loads((tmp_path / path.lstrip("/")).read_text())["host"]
    (port,) = main_container("node")["ports"]
    assert list(hosts) == [f"http://{port['hostIP']}:{port['hostPort']}"]


def egress(policy: Object) -> set[tuple[str, int]]:
    """Protocols and ports that pods get to."""
    return {(port["protocol"], port["port"]) for rule in policy["spec"]["egress"] for port in rule["ports"]}


@BOTH
def test_the_mirror_gets_to_registries_and_names_and_nothing_else(name: str) -> None:
    """Not to the metadata of a cloud: a redirect that led there would find it closed as well."""
    policy = only(name, "NetworkPolicy")
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert egress(policy) == {("UDP", 53), ("TCP", 53), ("TCP", 443)}
    (tls,) = (rule for rule in policy["spec"]["egress"] if "to" in rule)
    assert "169.254.0.0/16" in tls["to"][0]["ipBlock"]["except"]
