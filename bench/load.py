"""Load test (`python -m bench.load`): the latency of the mirror's /healthz under misbehaving clients.

Idle connections, clients that send or read slowly, cold pulls and header floods are added one kind after the other. In
each phase, a separate process measures the latency of /healthz.
"""

import argparse
import asyncio
import http.client
import json
import resource
import select
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import machine
from tests.fake.content import Blob
from tests.fake.registry import Registry
from tests.http.client import Client, wait_until_cached
from tests.http.many_clients import ManyClients, pull_concurrently
from tests.http.resources import MIB, descriptors, resident
from tests.http.upstreams import CALM, Upstream, sections
from tests.real.mirror import Mirror, mirror

PAUSE = 0.01  # seconds between two requests of /healthz


@dataclass(frozen=True, slots=True)
class Phase:
    """State of the mirror during one phase of the load."""

    name: str
    health: Sequence[float]  # seconds, each
    resident: int
    descriptors: int
    cpu: float  # of one core


class Probe:
    """Process that requests /healthz for the duration of the context."""

    _child: asyncio.subprocess.Process

    def __init__(self, mirrored: Mirror, name: str, phases: list[Phase]) -> None:
        self._mirror = mirrored
        self._name = name
        self._phases = phases
        self._began = 0.0
        self._cpu = 0.0

    async def __aenter__(self) -> None:
        argv = [sys.executable, "-m", "bench.load", "--probe", str(self._mirror.port)]
        self._child = await asyncio.create_subprocess_exec(
            *argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert self._child.stdout is not None
        await self._child.stdout.readline()  # written when it starts
        self._began, self._cpu = time.monotonic(), machine.cpu_seconds(self._mirror.program.pid)

    async def __aexit__(self, *raised: object) -> None:
        pid = self._mirror.program.pid
        cpu = (machine.cpu_seconds(pid) - self._cpu) / (time.monotonic() - self._began)
        memory, files = resident(pid), descriptors(pid)
        output, _ = await self._child.communicate(b"\n")
        latencies: list[float] = json.loads(output)
        self._phases.append(Phase(self._name, sorted(latencies), memory, files, cpu))


def probe(port: int) -> None:
    """Measure the latency of /healthz until standard input is readable, then print the latencies as JSON."""
    latencies: list[float] = []
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    print(flush=True)
    while not select.select([sys.stdin], [], [], PAUSE)[0]:
        began = time.perf_counter()
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        latencies.append(time.perf_counter() - began)
        connection.close()  # a new connection for each request: accepting it is part of the latency
    json.dump(latencies, sys.stdout)


async def measure(options: argparse.Namespace) -> list[Phase]:
    """Run all phases in order."""
    phases: list[Phase] = []
    with tempfile.TemporaryDirectory(prefix="load-") as folder:
        async with Registry.running() as registry:
            config = Path(folder) / "mirror.toml"
            upstream = Upstream("r.test", registry)
            config.write_text(CALM + sections([upstream]))
            async with mirror(Path(folder), "--config", str(config)) as mirrored, Client.of(mirrored.url) as client:
                await _crowd(mirrored, client, upstream, options, phases)
    return phases


async def _crowd(
    mirrored: Mirror, client: Client, upstream: Upstream, options: argparse.Namespace, phases: list[Phase]
) -> None:
    large = upstream.publish_blob(Blob.noise(64 * MIB))
    await client.get(upstream.blob(large))
    await wait_until_cached(client, upstream.blob(large))
    cold = [upstream.publish_blob(Blob.noise(options.cold_size + number)) for number in range(options.cold)]
    async with Probe(mirrored, "no load", phases):
        await asyncio.sleep(options.seconds)
    async with ManyClients.before(mirrored) as crowd:
        kinds = (
            (f"{options.idle} idle", crowd.idle(options.idle)),
            (f"+ {options.slow} slow to send (1 B/s)", crowd.slow_to_ask(options.slow)),
            (f"+ {options.slow} slow to read (1 KiB/s)", crowd.slow_to_read(options.slow, upstream.blob(large))),
        )
        for name, arrival in kinds:
            async with Probe(mirrored, name, phases):
                await arrival
                await asyncio.sleep(options.seconds)
        async with Probe(mirrored, f"+ {options.cold} cold pulls of {options.cold_size >> 10} KiB", phases):
            complete = await pull_concurrently(client, map(upstream.blob, cold))
        async with Probe(mirrored, f"+ {options.floods} header floods", phases):
            await crowd.flooding(options.floods)
            await asyncio.sleep(options.seconds)
    async with Probe(mirrored, "all disconnected", phases):
        await asyncio.sleep(options.seconds)
    if complete != options.cold:
        raise SystemExit(f"only {complete} of {options.cold} cold pulls completed")


def shown(phases: Sequence[Phase]) -> Table:
    table = Table(title=f"Latency of /healthz under load ({machine.description()})")
    for name in ("phase", "requests", "p50 ms", "p99 ms", "max ms", "resident MiB", "file descriptors", "CPU"):
        table.add_column(name, justify="left" if name == "phase" else "right")
    for phase in phases:
        times = [phase.health[int((len(phase.health) - 1) * share)] * 1e3 for share in (0.5, 0.99, 1.0)]
        table.add_row(
            phase.name,
            str(len(phase.health)),
            *(f"{one:.1f}" for one in times),
            f"{phase.resident / MIB:.0f}",
            str(phase.descriptors),
            f"{phase.cpu:.0%}",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser("bench.load", description=__doc__)
    parser.add_argument("--idle", type=int, default=2000)
    parser.add_argument("--slow", type=int, default=200, help="slow to send, and as many slow to read (default: 200)")
    parser.add_argument("--cold", type=int, default=500, help="cold pulls of different blobs (default: 500)")
    parser.add_argument("--cold-size", type=int, default=256 << 10, metavar="BYTES")
    parser.add_argument("--floods", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=5.0, help="duration of each phase (default: 5)")
    parser.add_argument("--probe", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        probe(options.probe)
        return
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    Console(width=150).print(shown(asyncio.run(measure(options))))


if __name__ == "__main__":
    main()
