"""Upstream check: send each endpoint of each upstream a request, as the mirror would, and locate any failure.

A failure is reported with the step where it occurred: DNS, connect, TLS, HTTP, or the login.
"""

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

_QUOTA_IMAGE = ("ratelimitpreview/test", Tag("latest"))  # by Docker Hub, for this purpose; a HEAD is not a pull


async def check_upstreams(settings: Settings) -> list[Finding]:
    """Check all upstreams concurrently. Return findings in the order of the configuration. Offline, send no request."""
    if settings.server.offline:
        return [ok("upstreams", "not checked (offline)")]
    metrics = Metrics()
    try:
        async with registries_of(settings, metrics) as registries:
            found = await asyncio.gather(
                *(
                    _check_upstream(registries[canonical_upstream(name)], upstream, settings, metrics)
                    for name, upstream in settings.upstreams.items()
                )
            )
    except MirrorError as error:  # a file named in the section of an upstream is invalid
        return [problem("upstreams", str(error), "correct that file, or name another one")]
    return [finding for findings in found for finding in findings]


async def _check_upstream(
    registry: Registry, upstream: UpstreamSettings, settings: Settings, metrics: Metrics
) -> list[Finding]:
    failures = await registry.check_each()
    urls = dict(zip(failures, upstream.addresses, strict=True))
    findings = []
    for label, failure in failures.items():
        name = f"{registry.name} at {label}" if len(urls) > 1 else registry.name
        findings.append(await _endpoint_finding(name, urls[label], failure, upstream, settings))
    if registry.name == DOCKER_HUB and any(failure is None for failure in failures.values()):
        offers_login = upstream.client_auth == "mirror" and not _has_login(upstream, settings)
        findings += await _check_pull_quota(registry, metrics, offers_login=offers_login)
    return findings


async def _endpoint_finding(
    name: str, url: str, failure: MirrorError | None, upstream: UpstreamSettings, settings: Settings
) -> Finding:
    subject = f"upstream {name}"
    if failure is None:
        return ok(subject, f"{url} answers and accepts the mirror's requests")
    if isinstance(failure, UpstreamRefused):
        return _refused(subject, url, failure, upstream, settings)
    if isinstance(failure, UpstreamThrottled):
        return warning(subject, str(failure), "wait: cached content is served in the meantime")
    if isinstance(failure, UpstreamUnavailable) and proxy_for(url) is None:
        return await _unreachable(subject, url, failure, settings.timeouts.connect)
    return problem(subject, str(failure), "check url in its section, and HTTPS_PROXY if there is a proxy")


def _refused(
    subject: str, url: str, failure: UpstreamRefused, upstream: UpstreamSettings, settings: Settings
) -> Finding:
    if upstream.client_auth == "passthrough":
        return ok(subject, f"{url} answers; access depends on each client's own login")
    if _has_login(upstream, settings):
        fix = (
            "test the login with docker login at that registry, then correct it in the mirror's configuration "
            "(username and password_file, credential_helper, or the docker_config file)"
        )
        return problem(subject, str(failure), fix)
    message = f"{url} answers, and requires a login: pulls of public images may succeed, pulls of private ones fail"
    return warning(subject, message, "to pull private ones, set username and password_file, or credential_helper")


def _has_login(upstream: UpstreamSettings, settings: Settings) -> bool:
    has_own = upstream.username is not None or upstream.credential_helper is not None
    return has_own or settings.credentials.docker_config is not None


async def _unreachable(subject: str, url: str, failure: UpstreamError, seconds: float) -> Finding:
    """Return a problem that names the failed step, with its fix. The message of a TLS failure already contains one."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or {"http": 80, "https": 443}[parts.scheme]
    try:
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError) as error:
        message = f"DNS: {host} is not found: {getattr(error, 'strerror', None) or 'no answer'}"
        fix = "check the name (url in its section), /etc/resolv.conf, and HTTPS_PROXY if there is a proxy"
        return problem(subject, message, fix)
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
    except (OSError, TimeoutError) as error:
        reason = getattr(error, "strerror", None) or f"no answer in {seconds:.3g} s"
        message = f"connect: {host}:{port}: {reason}"
        fix = "allow the mirror to connect to it (firewall), set HTTPS_PROXY, or set another url in its section"
        return problem(subject, message, fix)
    if "certificate" in str(failure) or "TLS" in str(failure):
        return problem(subject, f"TLS: {failure}", None)
    return problem(subject, f"HTTP: {failure}", "check that a registry runs there (url in its section), and is up")


async def _check_pull_quota(registry: Registry, metrics: Metrics, *, offers_login: bool) -> list[Finding]:
    """Report how many pulls Docker Hub still allows. Docker Hub announces no limit for paying accounts.

    Args:
        offers_login: whether the mirror has no login for it and may have one, which raises the quota.
    """
    subject = f"pulls left at {registry.name}"
    fix = "warm the mirror in quiet hours"
    if offers_login:
        fix = f'set username and password_file in [upstreams."{registry.name}"] for more; {fix}'
    try:
        await registry.resolve(PullContext(ANONYMOUS_CALLER, Repository(DOCKER_HUB, _QUOTA_IMAGE[0])), _QUOTA_IMAGE[1])
    except UpstreamThrottled as error:
        return [warning(subject, f"none: {error}", fix)]
    except MirrorError:
        pass  # a mirror of Docker Hub without this image; its response may contain the quota nevertheless
    quota = metrics.pulls.get(registry.name)
    if quota is None:
        return [ok(subject, "it announces no limit")]
    left, limit = quota
    message = f"{left}" if limit is None else f"{left} of {limit}"
    return [warning(subject, message, fix) if is_low(left, limit) else ok(subject, message)]
