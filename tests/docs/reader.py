"""Follow a document on a machine: run all of its commands and write all of its files."""

import json
import re
import tomllib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, assert_never

import yaml

from mirror.clients import CLIENTS, Address, Mirrored
from mirror.config import DEFAULT_UPSTREAMS, Settings
from tests.docs.blocks import Block, Command, File, Move, missing_line
from tests.docs.machine import Machine
from tests.real.program import Program

NOT_RUN: Mapping[str, str] = {"kubectl ": "there is no cluster here"}
"""Commands that are not run, by their beginning, with the reason."""

INSTEAD: Mapping[str, str] = {"make test": "make --dry-run test"}
"""Commands that would run these tests, with the command that is run instead."""

PROOFS: Mapping[str, str] = {
    "/etc/docker/daemon.json": "systemctl reload docker; docker pull --quiet alpine:3.20",
    "/etc/containerd/certs.d/_default/hosts.toml": (
        "systemctl restart containerd; "
        "ctr images pull --hosts-dir /etc/containerd/certs.d --snapshotter native quay.io/org/app:v1"
    ),
    "/etc/containers/registries.conf.d/mirror.conf": "podman pull --quiet docker.io/library/alpine:3.20",
}
"""For each client file, a command that uses it. Upstream names do not resolve there: responses come from the mirror."""

_PRINTED = {CLIENTS["k3s"].path}
"""Files of clients that are not installed: the document must show the output of `mirror client-config`."""

_SERVES = re.compile(r"mirror serve(?!.*[>&])|make run")
_PARSERS: Mapping[str, Callable[[str], Any]] = {
    "toml": tomllib.loads,
    "json": json.loads,
    "yaml": yaml.safe_load,
    "text": str,
}


class Reader:
    """Runs a document's blocks on a machine, with the mirror in the background."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._serving: Program | None = None
        self._logs = 0

    async def follow(self, block: Block) -> None:
        """Run a command or write a file; fail if the command fails or its output lacks a shown line."""
        match block:
            case Move():
                await self.stop()
                self._machine.move(back=block.back)
            case File():
                await self._write(block)
            case Command():
                await self._run(block)
            case _:
                assert_never(block)

    async def _run(self, command: Command) -> None:
        if any(command.text.startswith(beginning) for beginning in NOT_RUN):
            return
        if _SERVES.match(command.text):
            await self._serve(command.text)
            return
        result = await self._machine.succeeded(INSTEAD.get(command.text, command.text))
        missing = missing_line(command.shown, result.output + result.errors)
        assert missing is None, f"{command.text!r} does not say {missing!r}: {result}"

    async def _write(self, file: File) -> None:
        found = _PARSERS[file.language](file.text)
        if file.path is None:
            assert file.language == "toml", f"the text before names no file: {file.text}"
            assert found.keys() <= Settings.model_fields.keys(), (
                f"the text before names no file: {file.text}"
            )  # test_documents.py
            return
        if file.path in _PRINTED:
            assert found == yaml.safe_load(_printed(file.text))
        else:
            client = any(file.path == one.path for one in CLIENTS.values())
            assert not client or file.path in PROOFS, f"no command proves that {file.path} is read"
        await self._machine.write(file.path, file.text)
        if file.path in PROOFS:
            await self._prove(file)
        for script in _scripts(found if file.path.startswith(".git") else None):
            await self._machine.succeeded(script)

    async def _prove(self, file: File) -> None:
        assert file.path is not None
        if self._serving is None:
            await self._serve("mirror serve --listen 0.0.0.0:5000")
        await self._machine.succeeded(PROOFS[file.path])

    async def _serve(self, command: str) -> None:
        """Run a serving command in the background; the one before is stopped with SIGINT first."""
        await self.stop()
        self._logs += 1
        log = self._machine.root / f"serving-{self._logs}.log"
        self._serving = await Program.start(self._machine.argv(command), log=log)
        serving = self._serving
        await serving.until(lambda: "listening" in serving.said())

    async def stop(self) -> None:
        """Stop the background command with SIGINT (Ctrl-C)."""
        if self._serving is None:
            return
        serving, self._serving = self._serving, None
        await self._machine.succeeded("pkill -INT -x mirror")
        await serving.ended()
        assert "stopped" in serving.said(), str(serving)
        assert "Traceback" not in serving.said(), str(serving)

    async def kill(self) -> None:
        """Kill the background command."""
        if self._serving is not None:
            await self._serving.kill()


@asynccontextmanager
async def reader(machine: Machine) -> AsyncIterator[Reader]:
    """Yield a reader; stop its background command at the end."""
    started = Reader(machine)
    try:
        yield started
        await started.stop()
    finally:
        await started.kill()


def _printed(shown: str) -> str:
    """Return the output of `mirror client-config k3s` for the mirror and the registries that are shown."""
    found = re.search(r"https?://[\w.:-]+", shown)
    assert found, shown
    names = tuple(name for name in DEFAULT_UPSTREAMS if f"{name}:" in shown)
    return CLIENTS["k3s"].merged(None, Mirrored(Address.parse(found[0]), names))


def _scripts(found: Any) -> Iterator[str]:  # noqa: ANN401 - YAML
    """Yield the scripts of a CI file: GitHub's `run`, GitLab's `before_script`, `script` and `after_script`."""
    if isinstance(found, dict):
        for key, value in found.items():
            if key == "run":
                yield str(value)
            elif key in {"script", "before_script", "after_script"}:
                yield "\n".join(value if isinstance(value, list) else [value])
            else:
                yield from _scripts(value)
    elif isinstance(found, list):
        for one in found:
            yield from _scripts(one)
