"""Sync files: which images a mirror keeps up with, when, and into which bundles (config/sync.toml shows every key)."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mirror.airgap.image_lists import images_in
from mirror.airgap.schedule import Schedule, parse_schedule
from mirror.config.quantities import Size
from mirror.errors import ListInvalid, MirrorError
from mirror.oci.platforms import Platform

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SMALLEST_PART = 2**20


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Entry(_Table):
    images: list[str] = Field(default_factory=list)
    from_: str | None = Field(None, alias="from", min_length=1)
    platforms: list[str] | None = None
    pin: bool = True
    every: str | None = None
    at: str | None = None

    @field_validator("platforms")
    @classmethod
    def _known_platforms(cls, platforms: list[str] | None) -> list[str] | None:
        try:
            return None if platforms is None else [str(Platform.parse(one)) for one in platforms]
        except MirrorError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _complete(self) -> _Entry:
        if not self.images and self.from_ is None:
            raise ValueError("images or from: one of them says what is meant")
        parse_schedule(self.every, self.at)
        return self


class _Export(_Table):
    directory: str = Field(min_length=1)
    name: str = "sync"
    split: Size | None = None

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        if _NAME.fullmatch(name) is None:
            raise ValueError("a name of letters, digits, '.', '_' and '-'")
        return name

    @field_validator("split")
    @classmethod
    def _large_enough(cls, split: int | None) -> int | None:
        if split is not None and split < SMALLEST_PART:
            raise ValueError("parts of less than 1MiB are too many")
        return split


class _Document(_Table):
    images: list[_Entry] = Field(min_length=1)
    export: _Export | None = None
    every: str | None = None
    at: str | None = None

    @model_validator(mode="after")
    def _scheduled(self) -> _Document:
        parse_schedule(self.every, self.at)
        return self


@dataclass(frozen=True, slots=True)
class Entry:
    """Images that are kept in sync together.

    Attributes:
        source: a further list of names, read each time.
        platforms: of an index, which ones; None for all.
        schedule: None where none was said.
    """

    images: tuple[str, ...]
    source: Path | None
    platforms: tuple[str, ...] | None
    pin: bool
    schedule: Schedule | None

    def names(self) -> list[str]:
        """What is meant: names and patterns, each once.

        Raises:
            ListInvalid: the list can't be read.
        """
        listed = [] if self.source is None else images_in(self.source)
        return list(dict.fromkeys([*self.images, *listed]))


@dataclass(frozen=True, slots=True)
class Export:
    """Where bundles go: <directory>/<name>-0001.tar and so on, each with what those before have not."""

    directory: Path
    name: str
    split: int | None


@dataclass(frozen=True, slots=True)
class Sync:
    """A whole sync file."""

    entries: tuple[Entry, ...]
    export: Export | None

    @classmethod
    def read(cls, file: Path) -> Sync:
        """The sync file at *file*; paths in it begin at its directory.

        Raises:
            ListInvalid: it can't be read, or something in it is unknown or makes no sense; each fault is a line.
        """
        try:
            document = _Document.model_validate(tomllib.loads(file.read_text()), strict=True)
        except OSError as error:
            raise ListInvalid(f"the sync file {file} can't be read: {error.strerror}") from error
        except ValidationError as error:
            raise ListInvalid(_explained(error, file)) from error
        except (ValueError, RecursionError) as error:
            raise ListInvalid(f"the sync file {file} is not TOML: {error}") from error
        base, export = file.parent, document.export
        return cls(
            tuple(_entry(one, document, base) for one in document.images),
            None if export is None else Export(base / export.directory, export.name, export.split),
        )


def names_in(file: Path) -> list[str]:
    """The names of images in a sync file or a list.

    Raises:
        ListInvalid
    """
    if file.suffix != ".toml":
        return images_in(file)
    return list(dict.fromkeys(name for entry in Sync.read(file).entries for name in entry.names()))


def _entry(entry: _Entry, document: _Document, base: Path) -> Entry:
    own = parse_schedule(entry.every, entry.at)
    return Entry(
        tuple(entry.images),
        None if entry.from_ is None else base / entry.from_,
        None if entry.platforms is None else tuple(entry.platforms),
        entry.pin,
        own if own is not None else parse_schedule(document.every, document.at),
    )


def _explained(error: ValidationError, file: Path) -> str:
    lines = [f"the sync file {file} can't be used:"]
    for fault in error.errors(include_url=False, include_context=False):
        path, message = ".".join(map(str, fault["loc"])) or "all of it", fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            message = f"unknown key; known here: {', '.join(_keys_beside(fault['loc']))}"
        lines.append(f"{path}: {message}")
    return "\n  ".join(lines)


def _keys_beside(path: tuple[str | int, ...]) -> list[str]:
    table: type[BaseModel] = _Document
    if len(path) > 1:
        table = _Entry if path[0] == "images" else _Export
    return sorted(field.alias or name for name, field in table.model_fields.items())
