"""The CI recipes in deploy/ci: their shell scripts, and the mirror's command lines in them."""

import os
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.engine import MIRROR, NETWORK, Site
from tests.deploy.files import DEPLOY
from tests.real.program import Ran, ran

FOLDER = DEPLOY / "ci"
IMAGE = "registry.example.com/mirror"
NAMES = ("github-actions.yaml", "gitlab-ci.yaml", "Jenkinsfile", "tekton.yaml")
_SH = re.compile(r"\bsh (?:'''(.*?)'''|'([^'\n]*)')", re.DOTALL)
SHELLS = {"github-actions.yaml": "bash -e", "gitlab-ci.yaml": "busybox sh -e", "Jenkinsfile": "sh -xe"}
_ENDS = {"|", ">", ">>", "&&", "||", ";"}


def document(name: str) -> dict[str, Any]:
    """Return a recipe that is YAML."""
    found = yaml.safe_load((FOLDER / name).read_text())
    assert isinstance(found, dict)
    return found


def scripts(name: str) -> list[str]:
    """Return all shell scripts of a recipe, in the order of their execution."""
    match name:
        case "github-actions.yaml":
            return [step["run"] for step in document(name)["jobs"]["build"]["steps"] if "run" in step]
        case "gitlab-ci.yaml":
            job = document(name)["build"]
            return ["\n".join(job[part]) for part in ("before_script", "script", "after_script")]
        case "Jenkinsfile":
            found = _SH.findall((FOLDER / name).read_text())
            return [textwrap.dedent(long or short) for long, short in found]
        case _:
            return [step["script"] for step in document(name)["spec"]["steps"]]


def command_lines(script: str) -> Iterator[list[str]]:
    """Yield the mirror's arguments in a script: after its name, its image, or `docker exec mirror mirror`."""
    for line in script.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        for at, word in enumerate(words):
            is_name = word == "mirror" and (
                at == 0 or words[at - 1] in _ENDS or words[at - 1 : at + 1] == ["mirror"] * 2
            )
            if is_name or word.startswith(f"{IMAGE}:"):
                rest = words[at + 1 :]
                end = next((place for place, one in enumerate(rest) if one in _ENDS), len(rest))
                yield rest[:end] or ["serve"]


class Agent:
    """A machine that runs scripts: with docker, and a `systemctl` that reloads docker."""

    def __init__(self, site: Site, directory: Path) -> None:
        self._site = site
        self._directory = directory
        self._programs = directory / "bin"
        self._programs.mkdir()
        for name, script in {"sudo": 'exec "$@"', "systemctl": f"kill -HUP $(cat {site.engine.pid})"}.items():
            (self._programs / name).write_text(f"#!/bin/sh\n{script}\n")
            (self._programs / name).chmod(0o755)
        self.work = directory / "work"
        self.work.mkdir()

    async def run(self, script: str, shell: str) -> Ran:
        """Run a script with local image names, paths and network, and with an upstream in the role of Docker Hub."""
        script = re.sub(rf"{IMAGE}:\S+", MIRROR, script)
        script = script.replace("/etc/docker:", f"{self._site.engine.configuration.parent}:")
        more = f"--network {NETWORK} --env MIRROR_UPSTREAM={self._site.upstream}"
        script = script.replace("docker run --detach", f"docker run --detach {more}")
        env = {
            **self._site.engine.environment,
            "PATH": f"{self._programs}:{os.environ['PATH']}",
            "HOME": str(self._directory),
            "CI_PROJECT_DIR": str(self.work),
        }
        return await ran(*shell.split(), "-c", f"cd {self.work}\n{script}", env=env)
