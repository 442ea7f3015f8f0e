"""Prometheus: scrapes a mirror and evaluates queries."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from tests.real.program import Program, running

LISTENING = re.compile(r'msg="Listening on" address=(127\.0\.0\.1:\d+)')

Sample = dict[str, str]


class Prometheus:
    """A running Prometheus."""

    def __init__(self, session: aiohttp.ClientSession, program: Program) -> None:
        self._session = session
        self.program = program

    async def query(self, expression: str) -> list[Sample]:
        """Return the labels of the series of *expression*; fail if it cannot be evaluated."""
        async with self._session.get("/api/v1/query", params={"query": expression}) as answer:
            body = await answer.json()
        assert body["status"] == "success", f"{expression}: {body}"
        result = body["data"]["result"]
        if body["data"]["resultType"] == "scalar":
            return [{}]
        return [dict(one["metric"]) for one in result]

    async def rules(self) -> dict[str, str]:
        """Return the health of each rule."""
        async with self._session.get("/api/v1/rules") as answer:
            body = await answer.json()
        return {rule["name"]: rule["health"] for group in body["data"]["groups"] for rule in group["rules"]}


@asynccontextmanager
async def prometheus(directory: Path, configuration: str) -> AsyncIterator[Prometheus]:
    """Run a Prometheus with its data in *directory* until the end of the block."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "prometheus.yaml"
    file.write_text(configuration)
    argv = ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={directory}/data"]
    argv += ["--web.listen-address=127.0.0.1:0", "--log.level=info"]
    log = directory / "prometheus.log"
    log.touch()
    async with running(argv, log=log) as program:
        await program.until(lambda: "Server is ready" in program.said() and bool(LISTENING.search(program.said())))
        found = LISTENING.search(program.said())
        assert found
        async with aiohttp.ClientSession(f"http://{found[1]}") as session:
            yield Prometheus(session, program)


def promql_names(expression: str) -> set[str]:
    """Return the metrics of an expression that start with `mirror_` or `process_`."""
    return set(re.findall(r"\b(?:mirror|process)_\w+", re.sub(r'"[^"]*"', '""', expression)))


def configured(text: str, **globals_: str) -> str:
    """Return a configuration with other values for existing keys; fail for a missing key."""
    for key, value in globals_.items():
        text, count = re.subn(rf"(?m)^(\s*(?:- )?{key}: ).*$", rf"\g<1>{value}", text)
        assert count == 1, f"{key}: {count} times in {json.dumps(text)}"
    return text
