"""Sync files: the images to keep up to date, the schedule, and the bundles to export (keys: see config/sync.toml)."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mirror.airgap.image_lists import images_in
from mirror.airgap.schedule import Schedule, parse_schedule
from mirror.config.quantities import Size
from mirror.config.validation_message import validation_message
from mirror.errors import ListInvalid, MirrorError
from mirror.oci.platforms import Platform

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SMALLEST_PART = 2**20  # bytes


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
    def _valid_platforms(cls, platforms: list[str] | None) -> list[str] | None:
        try:
            return None if platforms is None else [str(Platform.parse(one)) for one in platforms]
        except MirrorError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _has_images(self) -> _Entry:
        if not self.images and self.from_ is None:
            raise ValueError("set images or from")
        parse_schedule(self.every, self.at)
        return self


class _Export(_Table):
    directory: str = Field(min_length=1)
    name: str = "sync"
    split: Size | None = None

    @field_validator("name")
    @classmethod
    def _valid_name(cls, name: str) -> str:
        if _NAME.fullmatch(name) is None:
            raise ValueError("must consist of letters, digits, '.', '_' and '-'")
        return name

    @field_validator("split")
    @classmethod
    def _large_enough(cls, split: int | None) -> int | None:
        if split is not None and split < SMALLEST_PART:
            raise ValueError("must be at least 1MiB, to limit the number of parts")
        return split


class _Document(_Table):
    images: list[_Entry] = Field(min_length=1)
    export: _Export | None = None
    every: str | None = None
    at: str | None = None

    @model_validator(mode="after")
    def _valid_schedule(self) -> _Document:
        parse_schedule(self.every, self.at)
        return self


@dataclass(frozen=True, slots=True)
class Entry:
    """Images with a common schedule, `[[images]]` in a sync file.

    Attributes:
        source: a file with more image names, read at each run.
        platforms: the platforms to download; None for all.
        schedule: None if neither the entry nor the file sets one.
    """

    images: tuple[str, ...]
    source: Path | None
    platforms: tuple[str, ...] | None
    pin: bool
    schedule: Schedule | None

    def names(self) -> list[str]:
        """Return all image names and patterns, without duplicates.

        Raises:
            ListInvalid: if the file *source* can't be read.
        """
        listed = [] if self.source is None else images_in(self.source)
        return list(dict.fromkeys([*self.images, *listed]))


@dataclass(frozen=True, slots=True)
class Export:
    """Target of a bundle chain: <directory>/<name>-0001.tar and so on, each with only the new content."""

    directory: Path
    name: str
    split: int | None


@dataclass(frozen=True, slots=True)
class Sync:
    """Content of a sync file."""

    entries: tuple[Entry, ...]
    export: Export | None

    @classmethod
    def read(cls, file: Path) -> Sync:
        """Read a sync file. Relative paths in it start from its directory.

        Raises:
            ListInvalid: if the file can't be read or is invalid. The message has a line for each fault.
        """
        try:
            document = _Document.model_validate(tomllib.loads(file.read_text()), strict=True)
        except OSError as error:
            raise ListInvalid(f"the sync file {file} can't be read: {error.strerror}") from error
        except ValidationError as error:
            title = f"the sync file {file} can't be used:"
            raise ListInvalid(validation_message(error, _Document, title=title, whole="the file")) from error
        except (ValueError, RecursionError) as error:
            raise ListInvalid(f"the sync file {file} is not TOML: {error}") from error
        base, export = file.parent, document.export
        return cls(
            tuple(_entry(one, document, base) for one in document.images),
            None if export is None else Export(base / export.directory, export.name, export.split),
        )


def names_in(file: Path) -> list[str]:
    """Return the image names in a sync file (`.toml`) or an image list.

    Raises:
        ListInvalid: if the file can't be read or is invalid.
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
