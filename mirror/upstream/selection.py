"""Endpoint selection: how long one endpoint may take, and which of several failures to report. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from mirror.errors import (
    IntegrityError,
    MirrorError,
    UpstreamError,
    UpstreamRefused,
    UpstreamThrottled,
    UpstreamUnavailable,
)

_PROBE_SHARE = 0.25  # of the total time


def most_informative(failures: Sequence[MirrorError]) -> MirrorError:
    """Choose the failure to report if several endpoints failed: temporary failures come before permanent ones.

    The result is a 404 only if every endpoint answered 404: otherwise clients would treat content as deleted that is
    only unreachable.
    """
    for kind in (UpstreamThrottled, UpstreamUnavailable, IntegrityError, UpstreamRefused, UpstreamError):
        for failure in failures:
            if isinstance(failure, kind):
                return failure
    return failures[0]


def time_share(left: float, *, total: float, waiting: int, is_probe: bool) -> float:
    """Return how many seconds one endpoint may use of the *left* seconds that remain of *total*.

    Args:
        waiting: the number of endpoints to try afterwards; each gets an equal share.
        is_probe: the endpoint was down while another one is up. A probe gets at most a quarter of *total*.
    """
    share = left / (1 + waiting)
    return min(share, total * _PROBE_SHARE) if is_probe else share
