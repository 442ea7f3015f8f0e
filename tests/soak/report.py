"""The report of a soak, as a block of Markdown."""

import time
from collections import Counter
from collections.abc import Iterator

from bench.machine import description
from tests.soak.run import Soak

_MIB = 2**20


def report(soak: Soak) -> str:
    """Return the figures, with violations at the end."""
    return "\n".join(_lines(soak)) + "\n"


def _lines(soak: Soak) -> Iterator[str]:
    model, plan = soak.model, soak.plan
    took = time.monotonic() - soak.began
    yield f"### Soak, {time.strftime('%Y-%m-%d')}"
    yield ""
    yield f"{description()}; {took:.0f} s, {plan.clients} clients on loopback, seed `{plan.seed}`."
    yield ""
    yield "| | |"
    yield "|---|---|"
    for name, figure in _figures(soak):
        yield f"| {name} | {figure} |"
    yield ""
    outcomes = sorted({outcome for _, outcome in model.seen}, key=lambda one: (one != "right", one))
    yield f"| answers | {' | '.join(outcomes)} |"
    yield f"|---|{'---|' * len(outcomes)}"
    for kind in sorted({kind for kind, _ in model.seen}):
        yield f"| {kind} | {' | '.join(str(model.seen[kind, outcome] or '') for outcome in outcomes)} |"
    yield ""
    yield f"Faults that struck: {_listed(soak.weather.struck)}."
    if model.broken:
        yield ""
        yield f"**Broken promises: {_listed(model.broken)}.**"
        yield from (f"- {example}" for example in model.examples)


def _figures(soak: Soak) -> Iterator[tuple[str, str]]:
    model, gauges, service = soak.model, soak.gauges, soak.service
    yield "requests", f"{sum(model.seen.values()):,}"
    yield "of these in fair weather, where nothing excuses a failure", f"{model.fair:,}"
    yield "content compared, byte for byte", f"{model.content_bytes / _MIB:,.0f} MiB"
    yield "**wrong bytes**", f"**{model.wrong}**"
    yield "**broken promises**", f"**{sum(model.broken.values())}**"
    yield "faults that struck", f"{sum(soak.weather.struck.values()):,} of {len(soak.weather.struck)} kinds"
    yield "tags moved", str(soak.weather.tags_moved)
    yield "restarts", _listed(service.ends)
    most, limit = gauges.most_occupied / _MIB, service.limit / _MIB
    yield "most in the cache", f"{most:.2f} of {limit:.2f} MiB, in {gauges.disk_looks:,} looks"
    yield "upstreams up again after the last storm", f"{soak.recovered_after:.1f} s"
    health = sorted(1000 * seconds for seconds in gauges.health)
    middle, nearly_all = health[len(health) // 2], health[len(health) * 99 // 100]
    yield (
        "/healthz, as a busy client sees it",
        f"median {middle:.0f} ms, 99 % within {nearly_all:.0f} ms, at worst {health[-1]:.0f} ms",
    )
    early, late = soak.memory
    yield "memory in the last life", f"{early / _MIB:.1f} MiB early, {late / _MIB:.1f} MiB late"
    if soak.first is not None and soak.last is not None:
        yield "descriptors at rest", f"{len(soak.first.files)} early, {len(soak.last.files)} at the end"
        yield "tasks at rest", f"{soak.first.tasks} early, {soak.last.tasks} at the end"
        yield "files of no use", str(len(soak.last.litter))
        yield "bytes at rest", f"{soak.last.counted:,} counted, {soak.last.occupied:,} on disk"


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"
