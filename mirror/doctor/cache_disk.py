"""The disk: whether the cache directory can be used, how much room it has, and whether what is there stays there."""

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
_PASSING = {"tmpfs": "lies in memory", "ramfs": "lies in memory", "overlay": "is a layer of this container"}
_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse", "ceph", "glusterfs")


def examine_disk(settings: CacheSettings) -> list[Finding]:
    """Findings about the directory, its room and its file system."""
    path = settings.path
    there = next((one for one in (path, *path.absolute().parents) if one.exists()), Path("/"))
    unusable = _unusable(path, there)
    if unusable is not None:
        return [unusable]
    return [*_room(settings, there), _file_system(path, there)]


def _unusable(path: Path, there: Path) -> Finding | None:
    """Why nothing can be written; a file that is made and removed again is the proof that it can."""
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".mirror-doctor-") as probe:
            probe.write(b"probe")
            probe.flush()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        who = f"uid {os.geteuid()}"
        cure = f"let {who} write there (chown, mount options), or set cache.path to a directory where it may"
        return problem(_SUBJECT, f"{path} can't be used as {who}: {there}: {reason}", cure)
    return None


def _room(settings: CacheSettings, there: Path) -> Iterator[Finding]:
    state = os.statvfs(there)
    free = state.f_bavail * state.f_frsize
    path, most, floor = settings.path, settings.max_size, settings.min_free
    missing = max(0, most - _occupied(path)) + floor - free
    if free <= floor:
        says = (
            f"{path} has {format_size(free)} free, and min_free = {format_size(floor)} must stay free: "
            "pulls pass through without being stored"
        )
        yield problem(_SUBJECT, says, "free some space there, lower cache.min_free, or set cache.path to another disk")
    elif missing > 0:
        says = (
            f"{path} has {format_size(free)} free, {format_size(missing)} less than "
            f"max_size = {format_size(most)} may take"
        )
        cure = f"set cache.max_size to {format_size(max(0, most - missing))} or less"
        yield warning(_SUBJECT, says, cure)
    else:
        yield ok(_SUBJECT, f"{path} has {format_size(free)} free, enough for max_size = {format_size(most)}")
    if state.f_files and state.f_favail < _FEW_INODES:
        says = f"{path} has {state.f_favail} inodes left, and each blob takes one"
        yield warning(_SUBJECT, says, "remove small files there, or set cache.path to a file system with more")


def _occupied(path: Path) -> int:
    """Bytes of content that is there already."""
    total = 0
    for part in ("blobs", "ingest"):
        for folder, _, names in os.walk(path / part):
            for name in names:
                try:
                    total += os.lstat(os.path.join(folder, name)).st_size
                except FileNotFoundError:
                    continue  # a running mirror moves and removes them
    return total


def _file_system(path: Path, there: Path) -> Finding:
    kind = _kind(there.resolve())
    if kind in _PASSING:
        cure = "set cache.path to a directory on a disk (in a container: a volume)"
        return warning(_SUBJECT, f"{path} {_PASSING[kind]} ({kind}): the cache is gone with it", cure)
    if kind.partition(".")[0] in _REMOTE:
        says = f"{path} is on {kind}, elsewhere: each hit costs a trip there, and its locks are not to be relied on"
        return warning(_SUBJECT, says, "set cache.path to a directory on a disk of this machine")
    return ok(_SUBJECT, f"{path} is on {kind or 'a file system of a kind that is not told'}")


def _kind(path: Path) -> str:
    """The type of the file system at *path* (proc(5), mountinfo); empty where the system doesn't tell."""
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
