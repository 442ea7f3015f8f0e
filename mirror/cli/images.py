"""`mirror ls`, `pin`, `unpin`, `rm`, `gc`, `stats`: what is in the cache, and what stays there."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mirror.admin.client import AdminClient
from mirror.cli.cache_directory import settings_of_cache
from mirror.cli.options import CacheOption, ConfigOption, failures_told
from mirror.cli.programs import Programs
from mirror.config.quantities import format_count, format_size

_Images = Annotated[list[str], typer.Argument(metavar="IMAGE", show_default=False)]
_Json = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]
_COLUMNS = ("IMAGE", "DIGEST", "PLATFORMS", "SIZE", "SHARED", "AGE", "USED", "")
_TEXTS = ("DIGEST", "PLATFORMS", "")
_SPARED = ("SHARED", "PLATFORMS", "AGE", "USED", "DIGEST")  # in this order, where a terminal is too narrow for all
_UNBOUNDED = 2**20  # columns
_AGES = ((86_400, "d"), (3_600, "h"), (60, "min"))


def add_keeping(app: typer.Typer, programs: Programs) -> None:
    """Adds the commands to *app*. All of them work beside a running mirror."""

    @app.command("ls")
    def _ls(as_json: _Json = False, config: ConfigOption = None, cache: CacheOption = None) -> None:
        """List the images in the cache.

        SIZE is all of an image that is here, SHARED what of it other images have as well, AGE since upstream last
        confirmed the tag, USED since something of it was last pulled. A narrow terminal shows fewer of them.
        """
        with failures_told():
            settings = settings_of_cache(config, cache)
            images = programs.ask(settings, lambda control: control.get("/images"))
        if as_json:
            typer.echo(json.dumps(images, indent=1))
        else:
            _show(images)

    @app.command("stats")
    def _stats(as_json: _Json = False, config: ConfigOption = None, cache: CacheOption = None) -> None:
        """Say how much is in the cache."""
        with failures_told():
            settings = settings_of_cache(config, cache)
            found = programs.ask(settings, lambda control: control.get("/stats"))
        if as_json:
            typer.echo(json.dumps(found, indent=1))
        else:
            typer.echo(
                f"{format_count(found['images'], 'image')}, {found['pinned']} pinned, "
                f"{found['incomplete']} incomplete; "
                f"{format_count(found['blobs'], 'blob')}, "
                f"{format_size(found['bytes'])} of {format_size(found['limit'])}"
            )

    @app.command("pin")
    def _pin(images: _Images, config: ConfigOption = None, cache: CacheOption = None) -> None:
        """Keep images from eviction, by name or pattern (app:v1.*, quay.io/*)."""
        _change(programs, "/pin", "pinned", images, config, cache)

    @app.command("unpin")
    def _unpin(images: _Images, config: ConfigOption = None, cache: CacheOption = None) -> None:
        """Let images be evicted again."""
        _change(programs, "/unpin", "unpinned", images, config, cache)

    @app.command("rm")
    def _rm(images: _Images, config: ConfigOption = None, cache: CacheOption = None) -> None:
        """Remove images from the cache, by name or pattern (app:v1.*, quay.io/*), and what only they needed."""
        _change(programs, "/remove", "removed", images, config, cache)

    @app.command("gc")
    def _gc(config: ConfigOption = None, cache: CacheOption = None) -> None:
        """Remove what no image needs: what tags named before they moved, and what never was part of one."""
        with failures_told():
            settings = settings_of_cache(config, cache)
            found = programs.ask(settings, lambda control: control.post("/collect"))
        typer.echo(f"{format_size(found['freed'])} freed")


def _change(
    programs: Programs, path: str, done: str, images: list[str], config: ConfigOption, cache: CacheOption
) -> None:
    async def job(control: AdminClient) -> Any:  # noqa: ANN401 - JSON
        return await control.post(path, images=images)

    with failures_told():
        found = programs.ask(settings_of_cache(config, cache), job)
    for name in found["images"]:
        typer.echo(f"{name}: {done}")
    if "freed" in found:
        typer.echo(f"{format_size(found['freed'])} freed")


def _show(images: list[Mapping[str, Any]]) -> None:
    """On a narrow terminal without what can be spared: a name that is cut names nothing."""
    rows = [_row(image) for image in images]
    console = Console(soft_wrap=True)
    table = _table(rows, ())
    if not console.is_terminal:
        console.width = _width(console, table)  # columns are for people; programs that read this want whole lines
    for number in range(len(_SPARED) + 1):
        table = _table(rows, _SPARED[:number])
        if _width(console, table) <= console.width:
            break
    console.print(table)


def _width(console: Console, table: Table) -> int:
    """Columns of the terminal that *table* takes where it may."""
    return table.__rich_measure__(console, console.options.update(max_width=_UNBOUNDED)).maximum


def _table(rows: list[Mapping[str, str]], spared: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="")
    shown = [column for column in _COLUMNS if column not in spared]
    for column in shown:
        if column == "IMAGE":
            table.add_column(column, overflow="fold")
        else:
            table.add_column(column, justify="left" if column in _TEXTS else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(escape(row[column]) for column in shown))
    return table


def _row(image: Mapping[str, Any]) -> Mapping[str, str]:
    notes = [word for word, holds in (("pinned", image["pinned"]), ("incomplete", not image["complete"])) if holds]
    return {
        "IMAGE": image["name"],
        "DIGEST": image["digest"].partition(":")[2][:12],
        "PLATFORMS": " ".join(image["platforms"]),
        "SIZE": format_size(image["size"]),
        "SHARED": format_size(image["shared"]),
        "AGE": _since(image["checked"]),
        "USED": _since(image["used"]),
        "": ", ".join(notes),
    }


def _since(moment: float | None) -> str:
    if not moment:
        return "-"
    seconds = max(0, int(time.time() - moment))
    return next((f"{seconds // unit} {name}" for unit, name in _AGES if seconds >= unit), f"{seconds} s")
