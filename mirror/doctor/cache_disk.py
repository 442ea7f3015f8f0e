"""Disk check: whether the cache directory is writable, has enough free space, and is on a persistent local disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mirror.config import CacheSettings
from mirror.config.quantities import format_size
from mirror.doctor.finding import Finding, ok, problem, warning

_SUBJECT = "disk"
_FEW_INODES = 10_000
_VOLATILE = {
    "tmpfs": ("is in memory", "the machine restarts"),
    "ramfs": ("is in memory", "the machine restarts"),
    "overlay": ("is a layer of this container", "the container is removed"),
}
"""By type of file system: where the cache is, and when it is lost."""

_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse", "ceph", "glusterfs")


def check_disk(settings: CacheSettings) -> list[Finding]:
    """Check that the cache directory is writable, its free space, and its file system."""
    path = settings.path
    existing = next((parent for parent in (path, *path.absolute().parents) if parent.exists()), Path("/"))
    unwritable = _check_writable(path, existing)
    if unwritable is not None:
        return [unwritable]
    return [*_check_space(settings, existing), _check_file_system(path, existing)]


def _check_writable(path: Path, existing: Path) -> Finding | None:
    """Return a problem if the directory is not writable. The test creates and removes a file."""
    try:
        with tempfile.NamedTemporaryFile(dir=existing, prefix=".mirror-doctor-") as probe:
            probe.write(b"probe")
            probe.flush()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        user = f"uid {os.geteuid()}"
        fix = f"give {user} write access (chown, mount options), or set cache.path to a directory that it can write to"
        purpose = "" if existing == path else f" (for the cache {path})"
        return problem(_SUBJECT, f"{user} can't write to {existing}{purpose}: {reason}", fix)
    return None


def _check_space(settings: CacheSettings, existing: Path) -> Iterator[Finding]:
    state = os.statvfs(existing)
    free = state.f_bavail * state.f_frsize
    path, limit, min_free = settings.path, settings.max_size, settings.min_free
    missing = max(0, limit - _cached_size(path)) + min_free - free
    if free <= min_free:
        message = (
            f"{path} has {format_size(free)} free, and min_free = {format_size(min_free)} must stay free: "
            "pulls are passed through without being stored"
        )
        fix = "free some space there, lower cache.min_free, or set cache.path to another disk"
        yield problem(_SUBJECT, message, fix)
    elif missing > 0:
        message = (
            f"{path} has {format_size(free)} free, {format_size(missing)} less than the cache may need by "
            f"max_size = {format_size(limit)}"
        )
        fix = f"set cache.max_size to {format_size(max(0, limit - missing))} or less"
        yield warning(_SUBJECT, message, fix)
    else:
        yield ok(_SUBJECT, f"{path} has {format_size(free)} free, enough for max_size = {format_size(limit)}")
    if state.f_files and state.f_favail < _FEW_INODES:
        message = f"{path} has {state.f_favail} free inodes, and each blob needs one"
        yield warning(_SUBJECT, message, "remove small files there, or set cache.path to a file system with more")


def _cached_size(path: Path) -> int:
    """Return the bytes of content that the cache already stores."""
    total = 0
    for part in ("blobs", "ingest"):
        for folder, _, names in os.walk(path / part):
            for name in names:
                try:
                    total += os.lstat(os.path.join(folder, name)).st_size
                except FileNotFoundError:
                    continue  # moved or removed by a running mirror
    return total


def _check_file_system(path: Path, existing: Path) -> Finding:
    kind = _file_system_type(existing.resolve())
    if kind in _VOLATILE:
        fix = "set cache.path to a directory on a disk (in a container: a volume)"
        place, end = _VOLATILE[kind]
        return warning(_SUBJECT, f"{path} {place} ({kind}): the cache is lost when {end}", fix)
    if kind.partition(".")[0] in _REMOTE:
        message = (
            f"{path} is on a remote file system ({kind}): each hit needs the network, and file locks are unreliable"
        )
        return warning(_SUBJECT, message, "set cache.path to a directory on a disk of this machine")
    return ok(_SUBJECT, f"{path} is on {kind or 'a file system of unknown type'}")


def _file_system_type(path: Path) -> str:
    """Return the type of the file system at *path* from mountinfo (proc(5)), or an empty string if it is unknown."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    found, kind = Path("/"), ""
    for line in lines:
        fields = line.split(" ")
        point = Path(fields[4].replace("\\040", " "))
        if path.is_relative_to(point) and point.is_relative_to(found):
            found, kind = point, fields[fields.index("-") + 1]
    return kind
