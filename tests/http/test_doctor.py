"""`mirror doctor`: each kind of problem is found, and what cures it is said in the same line."""

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
    """The command, with a configuration of its own and the files of no client but the test's."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = directory / "root"
        self.root.mkdir()
        self.config = directory / "mirror.toml"

    async def asked(self, config: str, *arguments: str) -> Ran:
        """With the port free and 1 GiB of room, if *config* does not say otherwise."""
        self.config.write_text(config)
        own = {"--cache": str(self.directory / "cache"), "--listen": f"127.0.0.1:{free_port()}", "--max-size": "1MiB"}
        flags = [word for name, value in own.items() if name not in arguments for word in (name, value)]
        command = [sys.executable, "-m", "mirror", "doctor", "--config", str(self.config), "--root", str(self.root)]
        return await ran(*command, *flags, *arguments, env=environment())


@pytest.fixture
def doctor(tmp_path: Path) -> Doctor:
    return Doctor(tmp_path)


def upstreams(url: str, more: str = "", *, name: str = "docker.io") -> str:
    """A configuration in which every upstream is at *url*, so that nobody asks beyond this machine."""
    others = "".join(section(other, url) for other in ("docker.io", *ONLY) if other != name)
    return IMPATIENT + "[cache]\nmin_free = 0\n" + others + section(name, url, more)


def lines(said: Ran, subject: str) -> list[str]:
    """The lines about *subject*, each a verdict first."""
    return [line for line in said.output.splitlines() if line[9:].startswith(f"{subject}: ")]


async def test_where_all_is_well_it_says_so(doctor: Doctor) -> None:
    """Every line begins with ok, nothing has a cure, and the status is 0."""
    async with Registry.running() as registry:
        said = await doctor.asked(upstreams(registry.url))

    assert said.code == 0, str(said)
    told = [line for line in said.output.splitlines() if "is gone with it" not in line]  # the tests' disk may be such
    assert {line.split()[0] for line in told} == {"ok"}
    assert not any(" -> " in line for line in told)
    assert "is free" in lines(said, "port")[0]


async def test_as_json_it_is_for_programs(doctor: Doctor) -> None:
    """The same findings, with the verdict on all of them."""
    said = await doctor.asked(upstreams("http://127.0.0.1:9"), "--json")

    told = json.loads(said.output)
    assert (said.code, told["verdict"]) == (1, "problem")
    assert {finding["verdict"] for finding in told["findings"]} <= {"ok", "warning", "problem"}
    assert {"configuration", "disk", "port", "upstream docker.io"} <= {one["subject"] for one in told["findings"]}
    assert all(one["fix"] for one in told["findings"] if one["verdict"] == "warning")


async def test_a_configuration_that_stops_the_start_is_a_problem(doctor: Doctor) -> None:
    """In the words of serve, with the key; nothing else is checked with settings that are not in force."""
    said = await doctor.asked("[tags]\nfresh = 1\n")

    assert said.code == 1
    (line,) = said.output.splitlines()
    assert line.startswith("problem  configuration: ")
    assert "tags.fresh: unknown key" in line


async def test_a_file_that_the_configuration_names_is_read(doctor: Doctor) -> None:
    """The users' file is not there: serve would not start."""
    said = await doctor.asked(
        upstreams("http://127.0.0.1:9") + '[clients]\nusers_file = "/nowhere/users"\n', "--offline"
    )

    assert said.code == 1
    (line,) = lines(said, "configuration")
    assert line.startswith("problem")
    assert "/nowhere/users" in line


async def test_each_file_that_the_configuration_names_is_read(doctor: Doctor) -> None:
    """One that is not there hides no other one."""
    files = "[server]\ncertificate_file = '/nowhere/cert'\nkey_file = '/nowhere/key'\n"
    files += "[clients]\nusers_file = '/nowhere/users'\n"
    said = await doctor.asked(upstreams("http://127.0.0.1:9") + files, "--offline")

    assert said.code == 1
    certificate, users = lines(said, "configuration")
    assert certificate.startswith("problem")
    assert "/nowhere/cert" in certificate
    assert users.startswith("problem")
    assert "/nowhere/users" in users


async def test_offline_no_upstream_is_asked(doctor: Doctor) -> None:
    """Whoever has no network wants to hear of the rest."""
    async with Registry.running() as registry:
        said = await doctor.asked(upstreams(registry.url), "--offline")

        assert not registry.journal.entries
    assert said.code == 0
    assert lines(said, "upstreams") == ["ok       upstreams: not asked (offline)"]


async def test_a_directory_that_can_not_be_used(doctor: Doctor) -> None:
    """A file stands where the directory should be made."""
    (doctor.directory / "file").write_text("")
    said = await doctor.asked(upstreams("http://127.0.0.1:9"), "--offline", "--cache", str(doctor.directory / "file"))

    assert said.code == 1
    (line,) = lines(said, "disk")
    assert line.startswith("problem")
    assert "set cache.path" in line


async def test_a_disk_without_room(doctor: Doctor) -> None:
    """What may not be used up is more than there is: nothing could be stored."""
    config = upstreams("http://127.0.0.1:9").replace("min_free = 0", 'min_free = "9999TiB"')
    said = await doctor.asked(config, "--offline")

    assert said.code == 1
    assert any(line.startswith("problem") and "lower cache.min_free" in line for line in lines(said, "disk"))


async def test_a_limit_above_what_the_disk_has_is_a_warning(doctor: Doctor) -> None:
    """It works until the disk is full; a limit that fits is named. Warnings are no failure."""
    said = await doctor.asked(upstreams("http://127.0.0.1:9"), "--offline", "--max-size", "9999TiB")

    assert said.code == 0
    assert any(line.startswith("warning") and "set cache.max_size to" in line for line in lines(said, "disk"))


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no /dev/shm here")
async def test_a_cache_in_memory_is_a_warning(doctor: Doctor) -> None:
    """It is gone with the next start."""
    said = await doctor.asked(upstreams("http://127.0.0.1:9"), "--offline", "--cache", "/dev/shm/not-made-by-doctor")

    assert any(line.startswith("warning") and "lies in memory" in line for line in lines(said, "disk"))
    assert not os.path.exists("/dev/shm/not-made-by-doctor")


async def test_a_port_that_another_program_has(doctor: Doctor) -> None:
    """Whatever it is, it does not answer as a mirror does."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        said = await doctor.asked(upstreams("http://127.0.0.1:9"), "--offline", "--listen", listen)

    assert said.code == 1
    (line,) = lines(said, "port")
    assert line.startswith("problem")
    assert "ss -ltnp" in line


async def test_an_address_of_another_machine(doctor: Doctor) -> None:
    """192.0.2.1 is nobody's (RFC 5737)."""
    said = await doctor.asked(upstreams("http://127.0.0.1:9"), "--offline", "--listen", "192.0.2.1:5000")

    (line,) = lines(said, "port")
    assert line.startswith("problem")
    assert "an address of this machine" in line


async def test_a_mirror_that_runs_is_recognised(doctor: Doctor) -> None:
    """With its version, and how its cache is."""
    async with running_mirror(doctor.directory / "running", upstreams={"docker.io": "http://127.0.0.1:9"}) as mirror:
        said = await doctor.asked(upstreams("http://127.0.0.1:9"), "--offline", "--listen", mirror.host)

    (line,) = lines(said, "port")
    assert line.startswith("ok")
    assert "version 0." in line
    assert "its cache is ok" in line


@pytest.mark.parametrize(
    ("url", "step", "cure"),
    [
        ("http://nowhere.invalid", "DNS", "is the name right"),
        ("http://127.0.0.1:9", "connect", "is a firewall in between"),
    ],
)
async def test_an_upstream_that_is_out_of_reach(doctor: Doctor, url: str, step: str, cure: str) -> None:
    """At which step it ends, and what to look at there."""
    said = await doctor.asked(upstreams(url))

    assert said.code == 1
    (line,) = lines(said, "upstream docker.io")
    assert line.startswith(f"problem  upstream docker.io: {step}: ")
    assert cure in line


async def test_an_upstream_whose_certificate_is_not_believed(doctor: Doctor) -> None:
    """The key that names its authority is named, and with it all is well."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    file = doctor.directory / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    async with Registry.running(tls=context) as registry:
        without = await doctor.asked(upstreams(registry.url))
        believing = await doctor.asked(upstreams(registry.url, f'ca_file = "{file}"'))

    (line,) = lines(without, "upstream docker.io")
    assert line.startswith("problem  upstream docker.io: TLS: ")
    assert "ca_file" in line
    assert lines(believing, "upstream docker.io")[0].startswith("ok")


async def test_an_upstream_that_answers_with_failures(doctor: Doctor) -> None:
    """It is reached, and no use."""
    async with Registry.running() as registry:
        registry.inject(Status(500))
        said = await doctor.asked(upstreams(registry.url))

    assert lines(said, "upstream docker.io")[0].startswith("problem  upstream docker.io: HTTP: ")


async def test_a_login_that_is_wrong_is_a_problem_and_none_a_warning(doctor: Doctor) -> None:
    """Whoever set a login wants it to work; whoever set none may pull what is public. The password is not told."""
    (doctor.directory / "password").write_text("wrong-secret")
    login = f'username = "me"\npassword_file = "{doctor.directory}/password"'
    async with Registry.running() as registry:
        registry.gate = Basic("me", "right")
        wrong = await doctor.asked(upstreams(registry.url, login))
        none = await doctor.asked(upstreams(registry.url))
        (doctor.directory / "password").write_text("right")
        right = await doctor.asked(upstreams(registry.url, login))

    assert lines(wrong, "upstream docker.io")[0].startswith("problem")
    assert "docker login" in lines(wrong, "upstream docker.io")[0]
    assert lines(none, "upstream docker.io")[0].startswith("warning")
    assert "set username and password_file" in lines(none, "upstream docker.io")[0]
    assert lines(right, "upstream docker.io")[0].startswith("ok")
    assert "secret" not in wrong.output + wrong.errors


async def test_a_token_service_that_gives_tokens_to_anybody_is_fine(doctor: Doctor) -> None:
    """As those of Docker Hub, ghcr.io and quay.io are."""
    async with Registry.running() as registry, TokenServer.running() as tokens:
        registry.gate = Bearer(tokens=tokens)
        said = await doctor.asked(upstreams(registry.url))

    assert lines(said, "upstream docker.io")[0].startswith("ok"), str(said)


@pytest.mark.parametrize(("left", "verdict"), [("76;w=21600", "ok"), ("3;w=21600", "warning")])
async def test_the_pulls_that_are_left(doctor: Doctor, left: str, verdict: str) -> None:
    """By a HEAD, which counts as no pull; below a tenth there is something to do."""
    async with Registry.running() as registry:
        registry.publish("ratelimitpreview/test", image(), "latest")
        registry.inject(Header("RateLimit-Limit", "100;w=21600"))
        registry.inject(Header("RateLimit-Remaining", left))
        said = await doctor.asked(upstreams(registry.url))

        assert {seen.method for seen in registry.journal.entries if "/manifests/" in seen.path} == {"HEAD"}
    (line,) = lines(said, "pulls left at docker.io")
    assert line.startswith(f"{verdict:<8} pulls left at docker.io: {left.partition(';')[0]} of 100")
    assert ("username" in line) == (verdict == "warning")


async def test_each_of_several_addresses_is_asked(doctor: Doctor) -> None:
    """One that answers hides none that does not."""
    async with Registry.running() as registry:
        more = f'[upstreams."many.test"]\nurls = ["{registry.url}", "http://127.0.0.1:9"]\n'
        said = await doctor.asked(upstreams(registry.url) + more)

    assert lines(said, f"upstream many.test at 127.0.0.1:{registry.port}")[0].startswith("ok")
    assert lines(said, "upstream many.test at 127.0.0.1:9")[0].startswith("problem")


CLIENTS = {
    "docker": ("etc/docker/daemon.json", '{"registry-mirrors": ["http://127.0.0.1:5000"]}'),
    "containerd": ("etc/containerd/certs.d/_default/hosts.toml", '[host."http://127.0.0.1:5000"]'),
    "podman": ("etc/containers/registries.conf.d/m.conf", '[[registry]]\nlocation = "127.0.0.1:5000/docker.io"'),
}


@pytest.mark.parametrize("client", CLIENTS)
async def test_clients_are_seen_to_use_the_mirror_or_not(doctor: Doctor, client: str) -> None:
    """By what they read: named there it is ok, or else the command for it is said; what is broken is a problem."""
    path, text = CLIENTS[client]
    configuration = doctor.root / "etc/containerd/config.toml"
    for file in (doctor.root / path, configuration):
        file.parent.mkdir(parents=True, exist_ok=True)
    configuration.write_text('config_path = "/etc/containerd/certs.d"')
    verdicts = {}
    for name, content in (("uses", text), ("does not", text.replace("5000", "6000")), ("broken", "{[")):
        (doctor.root / path).write_text(content)
        said = await doctor.asked(upstreams("http://127.0.0.1:9"), "--offline", "--listen", "127.0.0.1:5000")
        (verdicts[name],) = lines(said, client)

    assert verdicts["uses"].startswith("ok")
    assert verdicts["does not"].startswith("warning")
    assert f"mirror client-config {client} --mirror http://127.0.0.1:5000 --write" in verdicts["does not"]
    assert verdicts["broken"].startswith("problem")
    assert str(doctor.root / path) in verdicts["broken"]


async def test_a_hosts_file_that_containerd_does_not_read_is_a_warning(doctor: Doctor) -> None:
    """Its CRI side reads the directory only where config.toml names it."""
    path, text = CLIENTS["containerd"]
    (doctor.root / path).parent.mkdir(parents=True)
    (doctor.root / path).write_text(text)

    said = await doctor.asked(upstreams("http://127.0.0.1:9"), "--offline", "--listen", "127.0.0.1:5000")

    (line,) = lines(said, "containerd")
    assert line.startswith("warning")
    assert "config_path" in line
