"""The Kubernetes manifests: valid for old and new clusters, unprivileged, and consistent with the program."""

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

OLDEST = "1.29"  # the oldest supported version
BOTH = pytest.mark.parametrize("name", KINDS)

pytestmark = pytest.mark.needs("kubectl")


@BOTH
def test_each_object_is_valid(name: str) -> None:
    """The published schemas accept each object, and reject unknown keys."""
    assert len(rendered(name)) > 3
    for one in rendered(name):
        for version in (OLDEST, kubernetes_validate.latest_version()):
            kubernetes_validate.validate(one, version, strict=True)


def test_unknown_key_is_rejected() -> None:
    """The schemas reject an unknown key."""
    wrong = {**only("node", "DaemonSet"), "specs": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, OLDEST, strict=True)


@BOTH
def test_every_object_is_in_the_namespace(name: str) -> None:
    """Selectors also match the pods."""
    namespace = only(name, "Namespace")["metadata"]["name"]
    labels = only(name, KINDS[name])["spec"]["template"]["metadata"]["labels"]
    for one in rendered(name):
        assert one["kind"] == "Namespace" or one["metadata"]["namespace"] == namespace, one["kind"]
        spec = one.get("spec", {})
        selector = spec.get("podSelector", spec.get("selector", {}))
        assert selector.get("matchLabels", selector) in ({}, labels), one["kind"]


@BOTH
def test_containers_are_unprivileged(name: str) -> None:
    """All containers follow the restricted Pod Security Standard; only the node's init container has one capability."""
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


def test_cluster_follows_the_restricted_standard() -> None:
    """The namespace enforces the standard: no hostPath volumes and no host ports."""
    labels = only("cluster", "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert all(volume.keys() <= {"name", "configMap", "emptyDir"} for volume in pod("cluster")["volumes"])
    assert all("hostPort" not in port for one in containers("cluster") for port in one["ports"])


def test_node_mounts_two_directories_and_one_loopback_port() -> None:
    """The host port is bound to loopback only."""
    paths = [volume["hostPath"]["path"] for volume in pod("node")["volumes"] if "hostPath" in volume]
    assert paths == ["/var/cache/registry-mirror", "/etc/containerd/certs.d"]
    assert [port["hostIP"] for port in main_container("node")["ports"]] == ["127.0.0.1"]


@BOTH
def test_configuration_agrees_with_volumes_and_ports(name: str, tmp_path: Path) -> None:
    """The volume is large enough, ports agree, and the grace period is longer than the mirror's shutdown."""
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
        claimed = parse_size(claim["spec"]["resources"]["requests"]["storage"] + "B")
        assert settings.cache.max_size + settings.cache.min_free < claimed * 0.95
        (port,) = only(name, "Service")["spec"]["ports"]
        assert (port["port"], port["targetPort"]) == (settings.server.port, main["ports"][0]["name"])


@BOTH
def test_image_has_this_version(name: str) -> None:
    """All containers have it."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {one["image"] for one in containers(name)} == {f"registry.example.com/mirror:{version}"}


@BOTH
async def test_probes_succeed_while_upstream_is_down(name: str, tmp_path: Path) -> None:
    """Otherwise an upstream outage would make cached images unavailable too."""
    file = tmp_path / "mirror.toml"
    file.write_text(configuration(name))
    async with Registry.running() as hub:
        down_url = hub.url
    upstreams = {"docker.io": down_url}
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


async def test_containerd_is_configured_with_the_node_port(tmp_path: Path) -> None:
    """`mirror client-config` writes the hosts.toml, below the mounted directory of the node."""
    (container,) = (one for one in containers("node") if one["name"] == "containerd")
    check_command(container["args"])
    (mount,) = container["volumeMounts"]
    root = container["args"][container["args"].index("--root") + 1]
    arguments = [str(tmp_path) if argument == root else argument for argument in container["args"]]
    await succeeded(sys.executable, "-m", "mirror", *arguments, env=program_environment())
    path = f"{mount['mountPath'].removeprefix(root)}/_default/hosts.toml"
    hosts = tomllib.loads((tmp_path / path.lstrip("/")).read_text())["host"]
    (port,) = main_container("node")["ports"]
    assert list(hosts) == [f"http://{port['hostIP']}:{port['hostPort']}"]


def egress(policy: Object) -> set[tuple[str, int]]:
    """Return the protocols and ports that pods may connect to."""
    return {(port["protocol"], port["port"]) for rule in policy["spec"]["egress"] for port in rule["ports"]}


@BOTH
def test_network_policy_allows_only_dns_and_https(name: str) -> None:
    """Cloud metadata addresses are excluded too, so a redirect to them fails."""
    policy = only(name, "NetworkPolicy")
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert egress(policy) == {("UDP", 53), ("TCP", 53), ("TCP", 443)}
    (tls,) = (rule for rule in policy["spec"]["egress"] if "to" in rule)
    assert "169.254.0.0/16" in tls["to"][0]["ipBlock"]["except"]
