"""The image, the Compose file and the pods: built, run and stopped by a real engine, with real pulls through them."""

import asyncio
import json
import re
import time
from pathlib import Path

import pytest
import yaml

from mirror.config import read_settings
from tests.deploy.engine import MIRROR, Site
from tests.deploy.files import DEPLOY, ROOT
from tests.deploy.manifests import KINDS
from tests.deploy.pods import pod_of
from tests.deploy.program import check_command
from tests.deploy.recipes import SHELLS, Agent, scripts
from tests.real.images import runnable
from tests.real.mirror import events_in
from tests.real.program import eventually, succeeded
from tests.real.systemd import UNITS, systemd

COMPOSE = DEPLOY / "docker" / "compose.yaml"
SERVICE = yaml.safe_load(COMPOSE.read_text())["services"]["mirror"]
LAYERS = 70_000_000  # bytes

pytestmark = pytest.mark.asyncio(loop_scope="package")
needs_docker = pytest.mark.needs("dockerd", "docker", "containerd", "busybox", "ip", "docker-compose", root=True)


@needs_docker
async def test_compose_service_serves_a_pull(built: Site, tmp_path: Path) -> None:
    """The container is read-only, unprivileged and not root; it becomes healthy, serves pulls and stops cleanly."""
    more = tmp_path / "more.yaml"
    ours = {"environment": {"MIRROR_UPSTREAM": built.upstream}, "healthcheck": {"interval": "1s"}}
    more.write_text(json.dumps({"services": {"mirror": ours}}))
    compose = ("docker-compose", "--project-name", "site", "--file", str(COMPOSE), "--file", str(more))
    name = "site_mirror_1"
    built.publish("library/app", runnable("hello from behind the container"), "v1")
    await succeeded(*compose, "up", "--detach", "--no-build", env=built.engine.environment)
    try:

        async def is_healthy() -> bool:
            health = (await built.engine.inspect(name))["State"]["Health"]
            assert health["Status"] != "unhealthy", health
            return bool(health["Status"] == "healthy")

        await eventually(is_healthy, within=30)
        await built.engine.pull("app:v1")
        assert await built.engine.run("app:v1") == "hello from behind the container\n"
        served = [one for one in events_in(await built.engine.logs(name)) if one["event"] == "pull_served"]
        assert {one["kind"] for one in served} == {"manifest", "blob"}
        assert (await built.engine.inside(name, "id", "-u")).output == "10001\n"
        for place in ("/opt/mirror", "/etc", "/"):
            written = await built.engine.inside(name, "mkdir", f"{place}/of-nobody")
            assert "Read-only file system" in written.errors, str(written)
        assert "\ndocker.io/library/app:v1 " in (await built.engine.inside(name, "mirror", "ls")).output
        found = await built.engine.inspect(name)
        assert (found["State"]["Health"]["Status"], found["State"]["Health"]["FailingStreak"]) == ("healthy", 0)
        assert found["HostConfig"]["CapDrop"] == ["ALL"]
        started = time.monotonic()
        await built.engine.stop(name)
        state = (await built.engine.inspect(name))["State"]
        assert (state["ExitCode"], state["OOMKilled"]) == (0, False), await built.engine.logs(name)
        assert time.monotonic() - started < 10
    finally:
        await succeeded(*compose, "down", "--volumes", "--timeout=1", env=built.engine.environment)


@needs_docker
async def test_image_is_small_and_does_not_run_as_root(built: Site) -> None:
    """The image runs as a user other than root, and adds the program without its build tools to the base."""
    image, base = await asyncio.gather(built.engine.inspect(MIRROR), built.engine.inspect("base"))
    user, _, group = image["Config"]["User"].partition(":")
    assert int(user) > 999
    assert int(group) > 999
    assert 0 < image["Size"] - base["Size"] < LAYERS
    assert list(image["Config"]["Volumes"]) == ["/var/cache/mirror"]
    check_command(image["Config"]["Cmd"])
    result = await built.engine.completed(MIRROR, "--version")
    assert result.startswith("mirror 0.")
    check = "import importlib.util as u; print([n for n in ('hatchling', 'pip', 'pytest') if u.find_spec(n)])"
    assert await built.engine.completed("--entrypoint", "python", MIRROR, "-c", check) == "[]\n"


@needs_docker
async def test_container_without_mirror_is_unhealthy(built: Site) -> None:
    """The health check itself fails; a check that cannot run would also make the container unhealthy."""
    command = (await built.engine.inspect(MIRROR))["Config"]["Healthcheck"]["Test"]
    assert command[0] == "CMD"
    container = await built.engine.started("--entrypoint", "sleep", MIRROR, "60")
    try:
        result = await built.engine.inside(container, *command[1:])
        assert (result.code, result.output, result.errors) == (1, "", "")
    finally:
        await built.engine.remove(container)


@pytest.mark.needs("docker-compose")
async def test_compose_file_is_valid() -> None:
    """The stop grace period is longer than the mirror's shutdown limit."""
    await succeeded("docker-compose", "--file", str(COMPOSE), "config", "--quiet")
    grace = float(SERVICE["stop_grace_period"].removesuffix("s"))
    assert grace > read_settings(None, {}, []).timeouts.shutdown + 5
    assert (COMPOSE.parent / SERVICE["build"]["context"]).resolve() == ROOT
    assert (ROOT / SERVICE["build"]["dockerfile"]).is_file()


@needs_docker
@pytest.mark.needs("kubectl")
@pytest.mark.parametrize("name", KINDS)
async def test_pod_serves_a_pull(built: Site, tmp_path: Path, name: str) -> None:
    """The pod's containers run with the manifest's rights: prepared, pulled through and stopped."""
    repository = f"app-{name}"
    built.publish(f"library/{repository}", runnable(f"hello from behind the {name}"), "v1")
    async with pod_of(built, name, tmp_path) as container:

        async def is_ready() -> bool:
            result = await built.engine.inside(container, "python", "/opt/mirror/bin/healthy")
            assert (await built.engine.inspect(container))["State"]["Running"], await built.engine.logs(container)
            return result.code == 0

        await eventually(is_ready, within=30)
        await built.engine.pull(f"{repository}:v1")
        assert await built.engine.run(f"{repository}:v1") == f"hello from behind the {name}\n"
        assert f"library/{repository}:v1 " in (await built.engine.inside(container, "mirror", "ls")).output
        assert list((tmp_path / "cache").glob("blobs/sha256/*"))
        if name == "node":
            built.publish("team/other", runnable("for containerd"), "v1")
            await built.engine.fetch(tmp_path / "hosts", "docker.io/team/other:v1")
            assert "team/other:v1 " in (await built.engine.inside(container, "mirror", "ls")).output
        await built.engine.stop(container)
        assert (await built.engine.inspect(container))["State"]["ExitCode"] == 0, await built.engine.logs(container)


@needs_docker
@pytest.mark.parametrize("name", SHELLS)
async def test_ci_recipe_builds_an_image_through_the_mirror(built: Site, tmp_path: Path, name: str) -> None:
    """All scripts run in order, on a machine whose docker has no mirror unless the recipe configures one."""
    agent = Agent(built, tmp_path)
    repository = name.partition(".")[0].lower()
    built.publish(f"library/{repository}", runnable(f"hello from behind {name}"), "v1")
    (agent.work / "Dockerfile").write_text(f"FROM docker.io/library/{repository}:v1\nLABEL by={repository}\n")
    before = built.engine.configuration.read_text()
    if name.startswith("github"):
        await _configured(built, agent, '{"registry-mirrors": []}', [])
    try:
        output = ""
        for script in scripts(name):
            result = await agent.run(script, SHELLS[name])
            assert result.code == 0, str(result)
            output += result.output
        assert re.search("(?m)^1 image,", output), output
        assert (await built.engine.inspect("app"))["Config"]["Labels"] == {"by": repository}
    finally:
        await built.engine.remove("mirror")
        await _configured(built, agent, before, ["http://127.0.0.1:5000/"])


async def _configured(built: Site, agent: Agent, text: str, mirrors: list[str]) -> None:
    """Write the engine's configuration, and wait until it is in effect."""
    built.engine.configuration.write_text(text)
    assert (await agent.run("systemctl reload docker", "sh")).code == 0

    async def has_taken_effect() -> bool:
        return await built.engine.mirrors() == mirrors

    await eventually(has_taken_effect)


SERVICE_FOLDER = DEPLOY / "systemd"
PLACES = {
    "mirror.service": f"{UNITS}/mirror.service",
    "mirror.sysusers": "/usr/lib/sysusers.d/mirror.conf",
    "mirror.env": "/etc/mirror/mirror.env",
}


@needs_docker
@pytest.mark.needs("systemd-analyze", "unshare")
async def test_systemd_service_serves_a_pull_in_its_sandbox(built: Site, tmp_path: Path) -> None:
    """A real systemd runs the image's program with the unit, the user and the variables of deploy/systemd."""
    files = {place: (SERVICE_FOLDER / name).read_text() for name, place in PLACES.items()}
    files[PLACES["mirror.env"]] += f"MIRROR_UPSTREAM={built.upstream}\n"
    directories = {
        "/opt/mirror": await built.engine.copy(MIRROR, "/opt/mirror", tmp_path / "mirror"),
        "/usr/local": await built.engine.copy(MIRROR, "/usr/local", tmp_path / "local"),
        "/opt/lib": await built.engine.copy(MIRROR, "/lib", tmp_path / "lib"),
    }
    (libraries,) = (folder.name for folder in (tmp_path / "lib").iterdir() if list(folder.glob("libc.so.*")))
    own = f"[Service]\nStandardError=append:/run/log\nEnvironment=LD_LIBRARY_PATH=/opt/lib/{libraries}\n"
    files[f"{PLACES['mirror.service']}.d/test.conf"] = own
    built.publish("library/app-systemd", runnable("hello from behind the service"), "v1")
    async with systemd("mirror.service", built.net, files=files, directories=directories) as machine:
        await machine.becomes("mirror.service", ActiveState="active")
        events = machine.file("/run/log")
        await eventually(lambda: _has(events, "listening"))
        await built.engine.pull("app-systemd:v1")
        assert await built.engine.run("app-systemd:v1") == "hello from behind the service\n"
        state = await machine.state("mirror.service")
        process = dict(
            line.split(":\t", 1) for line in machine.file(f"/proc/{state['MainPID']}/status").read_text().splitlines()
        )
        assert "0" not in process["Uid"].split("\t")
        assert (int(process["CapEff"], 16), process["NoNewPrivs"], process["Seccomp"]) == (0, "1", "2")
        assert machine.file("/var/cache/mirror").stat().st_mode & 0o777 == 0o700
        assert list(machine.file("/var/cache/mirror").glob("blobs/sha256/*"))
        environment = ("env", f"LD_LIBRARY_PATH=/opt/lib/{libraries}", "MIRROR_CACHE=/var/cache/mirror")
        result = await machine.within(*environment, "/opt/mirror/bin/mirror", "ls")
        assert "docker.io/library/app-systemd:v1 " in result.output, str(result)
        await machine.systemctl("reload", "mirror.service")
        await eventually(lambda: _has(events, "reloaded"))

        await machine.systemctl("kill", "--signal=KILL", "mirror.service")
        await machine.becomes("mirror.service", ActiveState="active", NRestarts="1")
        await machine.systemctl("stop", "mirror.service")
        assert (await machine.state("mirror.service"))["Result"] == "success"
        machine.file(PLACES["mirror.env"]).write_text("MIRROR_MAX_SIZE=lots\n")
        await machine.within("systemctl", "start", "mirror.service")
        await machine.becomes("mirror.service", ActiveState="failed", ExecMainStatus="2", NRestarts="0")


async def _has(events: Path, name: str) -> bool:
    return events.exists() and any(one["event"] == name for one in events_in(events.read_text()))
