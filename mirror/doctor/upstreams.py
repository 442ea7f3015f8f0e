"""The upstreams: each address of each is asked as the mirror would ask it, all at once."""

from __future__ import annotations

import asyncio
import socket
from urllib.parse import urlsplit

from mirror.assembly import registries_of
from mirror.auth.rules import ANONYMOUS_CALLER
from mirror.config import Settings, UpstreamSettings
from mirror.doctor.finding import Finding, ok, problem, warning
from mirror.errors import MirrorError, UpstreamError, UpstreamRefused, UpstreamThrottled, UpstreamUnavailable
from mirror.observability.metrics import Metrics
from mirror.oci.names import DOCKER_HUB, Repository, Tag, canonical_upstream
from mirror.origin import PullContext
from mirror.upstream.pull_quota import is_low
from mirror.upstream.registry import Registry
from mirror.upstream.session import proxy_for

_COUNTED = ("ratelimitpreview/test", Tag("latest"))  # Docker Hub's own, made for this; a HEAD counts as no pull


async def examine_upstreams(settings: Settings) -> list[Finding]:
    """Findings about each upstream, in the order of the configuration. Offline nobody is asked."""
    if settings.server.offline:
        return [ok("upstreams", "not asked (offline)")]
    metrics = Metrics()
    try:
        async with registries_of(settings, metrics) as registries:
            found = await asyncio.gather(
                *(
                    _examine(registries[canonical_upstream(name)], upstream, settings, metrics)
                    for name, upstream in settings.upstreams.items()
                )
            )
    except MirrorError as error:  # a file that a section names
        return [problem("upstreams", str(error), "mend that file, or name another one")]
    return [finding for findings in found for finding in findings]


async def _examine(
    registry: Registry, upstream: UpstreamSettings, settings: Settings, metrics: Metrics
) -> list[Finding]:
    failures = await registry.check_each()
    urls = dict(zip(failures, upstream.addresses, strict=True))
    findings = []
    for label, failure in failures.items():
        name = f"{registry.name} at {label}" if len(urls) > 1 else registry.name
        findings.append(await _finding(name, urls[label], failure, upstream, settings))
    if registry.name == DOCKER_HUB and any(failure is None for failure in failures.values()):
        findings += await _allowance(registry, metrics)
    return findings


async def _finding(
    name: str, url: str, failure: MirrorError | None, upstream: UpstreamSettings, settings: Settings
) -> Finding:
    subject = f"upstream {name}"
    if failure is None:
        return ok(subject, f"{url} answers and lets the mirror in")
    if isinstance(failure, UpstreamRefused):
        return _refused(subject, url, failure, upstream, settings)
    if isinstance(failure, UpstreamThrottled):
        return warning(subject, str(failure), "wait: until then what is cached is served")
    if isinstance(failure, UpstreamUnavailable) and proxy_for(url) is None:
        return await _unreachable(subject, url, failure, settings.timeouts.connect)
    return problem(subject, str(failure), "see url in its section, and HTTPS_PROXY if there is a proxy")


def _refused(
    subject: str, url: str, failure: UpstreamRefused, upstream: UpstreamSettings, settings: Settings
) -> Finding:
    if upstream.client_auth == "passthrough":
        return ok(subject, f"{url} answers; whom it lets in, clients' own logins decide")
    has_login = upstream.username is not None or upstream.credential_helper is not None
    if has_login or settings.credentials.docker_config is not None:
        return problem(subject, str(failure), "check the login with docker login at that registry, then mend it there")
    says = f"{url} answers, and lets nobody in without a login: public images may do, private ones do not"
    return warning(subject, says, "if you pull private ones: set username and password_file, or credential_helper")


async def _unreachable(subject: str, url: str, failure: UpstreamError, seconds: float) -> Finding:
    """At which step it ended, as each has another cure; what TLS or HTTP complain of says its cure itself."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or {"http": 80, "https": 443}[parts.scheme]
    try:
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError) as error:
        says = f"DNS: {host} is not found: {getattr(error, 'strerror', None) or 'no answer'}"
        cure = "is the name right? See url in its section, /etc/resolv.conf, and HTTPS_PROXY if there is a proxy"
        return problem(subject, says, cure)
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
    except (OSError, TimeoutError) as error:
        reason = getattr(error, "strerror", None) or f"no answer in {seconds:.3g} s"
        says = f"connect: {host}:{port}: {reason}"
        cure = "is a firewall in between? Let the mirror out to it, set HTTPS_PROXY, or another url in its section"
        return problem(subject, says, cure)
    if "certificate" in str(failure) or "TLS" in str(failure):
        return problem(subject, f"TLS: {failure}", None)
    return problem(subject, f"HTTP: {failure}", "is a registry there? Perhaps it is down; see url in its section")


async def _allowance(registry: Registry, metrics: Metrics) -> list[Finding]:
    """How many pulls Docker Hub still grants; nothing where it says nothing, as it does to who pays."""
    subject = f"pulls left at {registry.name}"
    cure = f'set username and password_file in [upstreams."{registry.name}"] for more; warm a mirror when it is quiet'
    try:
        await registry.resolve(PullContext(ANONYMOUS_CALLER, Repository(DOCKER_HUB, _COUNTED[0])), _COUNTED[1])
    except UpstreamThrottled as error:
        return [warning(subject, f"none: {error}", cure)]
    except MirrorError:
        pass  # it has no such image: then it is not Docker Hub itself, but it may have told
    told = metrics.pulls.get(registry.name)
    if told is None:
        return [ok(subject, "it tells of no limit")]
    left, limit = told
    says = f"{left}" if limit is None else f"{left} of {limit}"
    return [warning(subject, says, cure) if is_low(left, limit) else ok(subject, says)]
