"""Somebody who reads a document at a machine, types all of it, and writes all files that it shows."""

import json
import re
import tomllib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, assert_never

import yaml

from mirror.clients import CLIENTS, Address, Mirrored
from mirror.config import DEFAULT_UPSTREAMS, Settings
from tests.docs.blocks import Block, Command, File, Move, answers
from tests.docs.machine import Machine
from tests.real.program import Program

NOT_RUN: Mapping[str, str] = {"kubectl ": "there is no cluster here"}
"""What is not typed, by its beginning, and why."""

INSTEAD: Mapping[str, str] = {"make test": "make --dry-run test"}
"""What can't be typed here, as it runs these tests, and what is typed in its place."""

PROOFS: Mapping[str, str] = {
    "/etc/docker/daemon.json": "systemctl reload docker; docker pull --quiet alpine:3.20",
    "/etc/containerd/certs.d/_default/hosts.toml": (
        "systemctl restart containerd; "
        "ctr images pull --hosts-dir /etc/containerd/certs.d --snapshotter native quay.io/org/app:v1"
    ),
    "/etc/containers/registries.conf.d/mirror.conf": "podman pull --quiet docker.io/library/alpine:3.20",
}
"""What shows that a client reads a file, by the file. No upstream has a name here, so only the mirror can answer."""

_PRINTED = {CLIENTS["k3s"].path}
"""Files of clients that are not here: what is shown has to be what `mirror client-config` prints."""

_SERVES = re.compile(r"mirror serve(?!.*[>&])|make run")
_PARSERS: Mapping[str, Callable[[str], Any]] = {
    "toml": tomllib.loads,
    "json": json.loads,
    "yaml": yaml.safe_load,
    "text": str,
}


class Reader:
    """At a machine, with one terminal for what runs on and one for the rest."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._serving: Program | None = None
        self._logs = 0

    async def follow(self, block: Block) -> None:
        """Does what a block says. Fails where it can't be done, or is answered otherwise than is shown."""
        match block:
            case Move():
                await self.stop()
                self._machine.move(back=block.back)
            case File():
                await self._write(block)
            case Command():
                await self._type(block)
            case _:
                assert_never(block)

    async def _type(self, command: Command) -> None:
        if any(command.text.startswith(beginning) for beginning in NOT_RUN):
            return
        if _SERVES.match(command.text):
            await self._serve(command.text)
            return
        done = await self._machine.succeeded(INSTEAD.get(command.text, command.text))
        missing = answers(command.shown, done.output + done.errors)
        assert missing is None, f"{command.text!r} does not say {missing!r}: {done}"

    async def _write(self, file: File) -> None:
        found = _PARSERS[file.language](file.text)
        if file.path is None:
            assert file.language == "toml", f"which file is it? {file.text}"
            assert found.keys() <= Settings.model_fields.keys(), f"which file is it? {file.text}"  # test_documents.py
            return
        if file.path in _PRINTED:
            assert found == yaml.safe_load(_printed(file.text))
        else:
            client = any(file.path == one.path for one in CLIENTS.values())
            assert not client or file.path in PROOFS, f"what shows that {file.path} is read?"
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
        """Runs on, while other commands are typed elsewhere; what ran before is stopped with Ctrl-C."""
        await self.stop()
        self._logs += 1
        log = self._machine.root / f"serving-{self._logs}.log"
        self._serving = await Program.start(self._machine.argv(command), log=log)
        serving = self._serving
        await serving.until(lambda: "listening" in serving.said())

    async def stop(self) -> None:
        """Ctrl-C."""
        if self._serving is None:
            return
        serving, self._serving = self._serving, None
        await self._machine.succeeded("pkill -INT -x mirror")
        await serving.ended()
        assert "stopped" in serving.said(), str(serving)
        assert "Traceback" not in serving.said(), str(serving)

    async def leave(self) -> None:
        """Without a word."""
        if self._serving is not None:
            await self._serving.kill()


@asynccontextmanager
async def reader(machine: Machine) -> AsyncIterator[Reader]:
    """Stops at the end what still runs."""
    person = Reader(machine)
    try:
        yield person
        await person.stop()
    finally:
        await person.leave()


def _printed(shown: str) -> str:
    """What `mirror client-config k3s` prints for the mirror and the registries that are shown."""
    found = re.search(r"https?://[\w.:-]+", shown)
    assert found, shown
    names = tuple(name for name in DEFAULT_UPSTREAMS if f"{name}:" in shown)
    return CLIENTS["k3s"].merged(None, Mirrored(Address.parse(found[0]), names))


def _scripts(found: Any) -> Iterator[str]:  # noqa: ANN401 - YAML
    """What the steps of a CI's file run: GitHub's `run`, GitLab's `before_script` and `script`."""
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
