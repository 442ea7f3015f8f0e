"""`mirror doctor`: each kind of problem is found, and reported with its fix."""

import json
import os
import socket
import ssl
import sys
from contextlib import closing
from pathlib import Path

import pytest
import trustme

from tests.fake.content import image
from tests.fake.faults import Header, Status
from tests.fake.registry import Registry
from tests.fake.tokens import Basic, Bearer, TokenServer
from tests.http.upstreams import IMPATIENT, section
from tests.real.mirror import environment
from tests.real.mirror import mirror as running_mirror
from tests.real.program import Ran, ran

ONLY = ("quay.io", "ghcr.io", "gcr.io", "registry.k8s.io", "mcr.microsoft.com", "public.ecr.aws", "nvcr.io")


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as found:
        return int(found.getsockname()[1])


class Doctor:
    """Runs the command with its own configuration, and with the test's client files only."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = directory / "root"
        self.root.mkdir()
        self.config = directory / "mirror.toml"

    async def run(self, config: str, *arguments: str) -> Ran:
        """Run with a free port and 1 MiB cache, unless *arguments* say otherwise."""
        self.config.write_text(config)
        own = {"--cache": str(self.directory / "cache"), "--listen": f"127.0.0.1:{free_port()}", "--max-size": "1MiB"}
        flags = [word for name, value in own.items() if name not in arguments for word in (name, value)]
        command = [sys.executable, "-m", "mirror", "doctor", "--config", str(self.config), "--root", str(self.root)]
        return await ran(*command, *flags, *arguments, env=environment())


@pytest.fixture
def doctor(tmp_path: Path) -> Doctor:
    return Doctor(tmp_path)


def upstreams(url: str, more: str = "", *, name: str = "docker.io") -> str:
    """Return a configuration with every upstream at *url*, so that no request leaves this machine."""
    others = "".join(section(other, url) for other in ("docker.io", *ONLY) if other != name)
    return IMPATIENT + "[cache]\nmin_free = 0\n" + others + section(name, url, more)


def lines(said: Ran, subject: str) -> list[str]:
    """Return the lines about *subject*; each begins with a verdict."""
    return [line for line in said.output.splitlines() if line[9:].startswith(f"{subject}: ")]


async def test_healthy_setup_is_all_ok(doctor: Doctor) -> None:
    """Every line begins with ok, none has a fix, and the status is 0."""
    async with Registry.running() as registry:
        said = await doctor.run(upstreams(registry.url))

    assert said.code == 0, str(said)
    told = [
        line for line in said.output.splitlines() if "the cache is lost when " not in line
    ]  # the disk of tests may be one
    assert {line.split()[0] for line in told} == {"ok"}
    assert not any(" -> " in line for line in told)
    assert "is free" in lines(said, "port")[0]


async def test_json_output(doctor: Doctor) -> None:
    """The same findings as JSON, with an overall verdict."""
    said = await doctor.run(upstreams("http://127.0.0.1:9"), "--json")

    told = json.loads(said.output)
    assert (said.code, told["verdict"]) == (1, "problem")
    assert {finding["verdict"] for finding in told["findings"]} <= {"ok", "warning", "problem"}
    assert {"configuration", "disk", "port", "upstream docker.io"} <= {one["subject"] for one in told["findings"]}
    assert all(one["fix"] for one in told["findings"] if one["verdict"] == "warning")


async def test_invalid_configuration_is_a_problem(doctor: Doctor) -> None:
    """The message of serve, with the key; nothing else is checked, since the settings would not be in force."""
    said = await doctor.run("[tags]\nfresh = 1\n")

    assert said.code == 1
    (line,) = said.output.splitlines()
    assert line.startswith("problem  configuration: ")
    assert "tags.fresh: unknown key" in line


async def test_missing_configured_file_is_a_problem(doctor: Doctor) -> None:
    """The users file is missing: serve would not start."""
    said = await doctor.run(upstreams("http://127.0.0.1:9") + '[clients]\nusers_file = "/nowhere/users"\n', "--offline")

    assert said.code == 1
    (line,) = lines(said, "configuration")
    assert line.startswith("problem")
    assert "/nowhere/users" in line


async def test_every_configured_file_is_checked(doctor: Doctor) -> None:
    """One missing file does not hide another."""
    files = "[server]\ncertificate_file = '/nowhere/cert'\nkey_file = '/nowhere/key'\n"
    files += "[clients]\nusers_file = '/nowhere/users'\n"
    said = await doctor.run(upstreams("http://127.0.0.1:9") + files, "--offline")

    assert said.code == 1
    certificate, users = lines(said, "configuration")
    assert certificate.startswith("problem")
    assert "/nowhere/cert" in certificate
    assert users.startswith("problem")
    assert "/nowhere/users" in users


async def test_offline_sends_no_request_upstream(doctor: Doctor) -> None:
    """The other checks still run without a network."""
    async with Registry.running() as registry:
        said = await doctor.run(upstreams(registry.url), "--offline")

        assert not registry.journal.entries
    assert said.code == 0
    assert lines(said, "upstreams") == ["ok       upstreams: not checked (offline)"]


async def test_unusable_cache_directory_is_a_problem(doctor: Doctor) -> None:
    """A file is in the place of the directory."""
    (doctor.directory / "file").write_text("")
    said = await doctor.run(upstreams("http://127.0.0.1:9"), "--offline", "--cache", str(doctor.directory / "file"))

    assert said.code == 1
    (line,) = lines(said, "disk")
    assert line.startswith("problem")
    assert "set cache.path" in line


async def test_disk_without_free_space_is_a_problem(doctor: Doctor) -> None:
    """min_free is more than the disk has: nothing could be stored."""
    config = upstreams("http://127.0.0.1:9").replace("min_free = 0", 'min_free = "9999TiB"')
    said = await doctor.run(config, "--offline")

    assert said.code == 1
    assert any(line.startswith("problem") and "lower cache.min_free" in line for line in lines(said, "disk"))


async def test_max_size_above_the_disk_size_is_a_warning(doctor: Doctor) -> None:
    """The mirror works until the disk is full; the fix names a fitting limit. Warnings do not fail the command."""
    said = await doctor.run(upstreams("http://127.0.0.1:9"), "--offline", "--max-size", "9999TiB")

    assert said.code == 0
    assert any(line.startswith("warning") and "set cache.max_size to" in line for line in lines(said, "disk"))


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no /dev/shm here")
async def test_cache_in_memory_is_a_warning(doctor: Doctor) -> None:
    """The next boot loses a cache in memory."""
    said = await doctor.run(upstreams("http://127.0.0.1:9"), "--offline", "--cache", "/dev/shm/not-made-by-doctor")

    assert any(line.startswith("warning") and "is in memory" in line for line in lines(said, "disk"))
    assert not os.path.exists("/dev/shm/not-made-by-doctor")


async def test_port_in_use_is_a_problem(doctor: Doctor) -> None:
    """The other program does not answer like a mirror."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        said = await doctor.run(upstreams("http://127.0.0.1:9"), "--offline", "--listen", listen)

    assert said.code == 1
    (line,) = lines(said, "port")
    assert line.startswith("problem")
    assert "ss -ltnp" in line


async def test_foreign_listen_address_is_a_problem(doctor: Doctor) -> None:
    """192.0.2.1 is reserved for documentation (RFC 5737)."""
    said = await doctor.run(upstreams("http://127.0.0.1:9"), "--offline", "--listen", "192.0.2.1:5000")

    (line,) = lines(said, "port")
    assert line.startswith("problem")
    assert "an address of this machine" in line


async def test_running_mirror_is_recognized(doctor: Doctor) -> None:
    """The finding names its version and the state of its cache."""
    async with running_mirror(doctor.directory / "running", upstreams={"docker.io": "http://127.0.0.1:9"}) as mirror:
        said = await doctor.run(upstreams("http://127.0.0.1:9"), "--offline", "--listen", mirror.host)

    (line,) = lines(said, "port")
    assert line.startswith("ok")
    assert "version 0." in line
    assert "its cache is ok" in line


@pytest.mark.parametrize(
    ("url", "step", "fix"),
    [
        ("http://nowhere.invalid", "DNS", "check the name (url in its section)"),
        ("http://127.0.0.1:9", "connect", "allow the mirror to connect to it (firewall)"),
    ],
)
async def test_unreachable_upstream_is_a_problem(doctor: Doctor, url: str, step: str, fix: str) -> None:
    """The finding names the failed step and its fix."""
    said = await doctor.run(upstreams(url))

    assert said.code == 1
    (line,) = lines(said, "upstream docker.io")
    assert line.startswith(f"problem  upstream docker.io: {step}: ")
    assert fix in line


async def test_untrusted_upstream_certificate_is_a_problem(doctor: Doctor) -> None:
    """The fix names ca_file, with which the check succeeds."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    file = doctor.directory / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    async with Registry.running(tls=context) as registry:
        without = await doctor.run(upstreams(registry.url))
        believing = await doctor.run(upstreams(registry.url, f'ca_file = "{file}"'))

    (line,) = lines(without, "upstream docker.io")
    assert line.startswith("problem  upstream docker.io: TLS: ")
    assert "ca_file" in line
    assert lines(believing, "upstream docker.io")[0].startswith("ok")


async def test_upstream_with_5xx_is_a_problem(doctor: Doctor) -> None:
    """The upstream is reachable, but useless."""
    async with Registry.running() as registry:
        registry.inject(Status(500))
        said = await doctor.run(upstreams(registry.url))

    assert lines(said, "upstream docker.io")[0].startswith("problem  upstream docker.io: HTTP: ")


async def test_wrong_login_is_a_problem_and_missing_login_a_warning(doctor: Doctor) -> None:
    """Public images can still be pulled without a login. The password is not printed."""
    (doctor.directory / "password").write_text("wrong-secret")
    login = f'username = "me"\npassword_file = "{doctor.directory}/password"'
    async with Registry.running() as registry:
        registry.gate = Basic("me", "right")
        wrong = await doctor.run(upstreams(registry.url, login))
        none = await doctor.run(upstreams(registry.url))
        (doctor.directory / "password").write_text("right")
        right = await doctor.run(upstreams(registry.url, login))

    assert lines(wrong, "upstream docker.io")[0].startswith("problem")
    assert "docker login" in lines(wrong, "upstream docker.io")[0]
    assert lines(none, "upstream docker.io")[0].startswith("warning")
    assert "set username and password_file" in lines(none, "upstream docker.io")[0]
    assert lines(right, "upstream docker.io")[0].startswith("ok")
    assert "secret" not in wrong.output + wrong.errors


async def test_anonymous_token_service_is_ok(doctor: Doctor) -> None:
    """The token services of Docker Hub, ghcr.io and quay.io issue anonymous tokens."""
    async with Registry.running() as registry, TokenServer.running() as tokens:
        registry.gate = Bearer(tokens=tokens)
        said = await doctor.run(upstreams(registry.url))

    assert lines(said, "upstream docker.io")[0].startswith("ok"), str(said)


@pytest.mark.parametrize(("left", "verdict"), [("76;w=21600", "ok"), ("3;w=21600", "warning")])
async def test_pull_quota(doctor: Doctor, left: str, verdict: str) -> None:
    """Read by HEAD, which does not count as a pull; a warning if less than a tenth is left."""
    async with Registry.running() as registry:
        registry.publish("ratelimitpreview/test", image(), "latest")
        registry.inject(Header("RateLimit-Limit", "100;w=21600"))
        registry.inject(Header("RateLimit-Remaining", left))
        said = await doctor.run(upstreams(registry.url))

        assert {seen.method for seen in registry.journal.entries if "/manifests/" in seen.path} == {"HEAD"}
    (line,) = lines(said, "pulls left at docker.io")
    assert line.startswith(f"{verdict:<8} pulls left at docker.io: {left.partition(';')[0]} of 100")
    assert ("username" in line) == (verdict == "warning")


async def test_every_endpoint_is_checked(doctor: Doctor) -> None:
    """A working endpoint does not hide a failing one."""
    async with Registry.running() as registry:
        more = f'[upstreams."many.test"]\nurls = ["{registry.url}", "http://127.0.0.1:9"]\n'
        said = await doctor.run(upstreams(registry.url) + more)

    assert lines(said, f"upstream many.test at 127.0.0.1:{registry.port}")[0].startswith("ok")
    assert lines(said, "upstream many.test at 127.0.0.1:9")[0].startswith("problem")


CLIENTS = {
    "docker": ("etc/docker/daemon.json", '{"registry-mirrors": ["http://127.0.0.1:5000"]}'),
    "containerd": ("etc/containerd/certs.d/_default/hosts.toml", '[host."http://127.0.0.1:5000"]'),
    "podman": ("etc/containers/registries.conf.d/m.conf", '[[registry]]\nlocation = "127.0.0.1:5000/docker.io"'),
}


@pytest.mark.parametrize("client", CLIENTS)
async def test_client_configurations_are_checked(doctor: Doctor, client: str) -> None:
    """ok if the client's file names the mirror, else the command to configure it; a broken file is a problem."""
    path, text = CLIENTS[client]
    configuration = doctor.root / "etc/containerd/config.toml"
    for file in (doctor.root / path, configuration):
        file.parent.mkdir(parents=True, exist_ok=True)
    configuration.write_text('config_path = "/etc/containerd/certs.d"')
    verdicts = {}
    for name, content in (("uses", text), ("does not", text.replace("5000", "6000")), ("broken", "{[")):
        (doctor.root / path).write_text(content)
        said = await doctor.run(upstreams("http://127.0.0.1:9"), "--offline", "--listen", "127.0.0.1:5000")
        (verdicts[name],) = lines(said, client)

    assert verdicts["uses"].startswith("ok")
    assert verdicts["does not"].startswith("warning")
    assert f"mirror client-config {client} --mirror http://127.0.0.1:5000 --write" in verdicts["does not"]
    assert verdicts["broken"].startswith("problem")
    assert str(doctor.root / path) in verdicts["broken"]


async def test_undecodable_client_configuration_is_to_be_corrected(doctor: Doctor) -> None:
    """A file that is not text would not become readable by running the doctor as root."""
    path, _ = CLIENTS["docker"]
    (doctor.root / path).parent.mkdir(parents=True)
    (doctor.root / path).write_bytes(b"\xff")

    said = await doctor.run(upstreams("http://127.0.0.1:9"), "--offline", "--listen", "127.0.0.1:5000")

    (line,) = lines(said, "docker")
    assert line.startswith("warning")
    assert line.endswith("is not UTF-8 text: correct it by hand -> correct the file, then run mirror doctor again")


async def test_unread_hosts_toml_is_a_warning(doctor: Doctor) -> None:
    """containerd's CRI plugin reads the directory only if config.toml names it."""
    path, text = CLIENTS["containerd"]
    (doctor.root / path).parent.mkdir(parents=True)
    (doctor.root / path).write_text(text)

    said = await doctor.run(upstreams("http://127.0.0.1:9"), "--offline", "--listen", "127.0.0.1:5000")

    (line,) = lines(said, "containerd")
    assert line.startswith("warning")
    assert "config_path" in line
