"""`mirror ls`, `pin`, `unpin`, `rm`, `gc`, `stats`: what is in the cache, and what stays there."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from mirror.cli.caches import settings_of_cache
from mirror.cli.options import CacheOption, ConfigOption, failures_told
from mirror.cli.programs import Programs
from mirror.control import Control
from mirror.progress import counted, sized

_Images = Annotated[list[str], typer.Argument(metavar="IMAGE", show_default=False)]
_Json = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]
_AGES = ((86_400, "d"), (3_600, "h"), (60, "min"))


def add_keeping(app: typer.Typer, programs: Programs) -> None:
    """Adds the commands to *app*. All of them work beside a running mirror."""

    @app.command("ls")
    def _ls(as_json: _Json = False, config: ConfigOption = None, cache: CacheOption = None) -> None:
        """List the images in the cache.

        SIZE is all of an image that is here, SHARED what of it other images have as well, AGE since upstream last
        confirmed the tag, USED since something of it was last pulled.
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
                f"{counted(found['images'], 'image')}, {found['pinned']} pinned, {found['incomplete']} incomplete; "
                f"{counted(found['blobs'], 'blob')}, {sized(found['bytes'])} of {sized(found['limit'])}"
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
        typer.echo(f"{sized(found['freed'])} freed")


def _change(
    programs: Programs, path: str, done: str, images: list[str], config: ConfigOption, cache: CacheOption
) -> None:
    async def job(control: Control) -> Any:  # noqa: ANN401 - JSON
        return await control.post(path, images=images)

    with failures_told():
        found = programs.ask(settings_of_cache(config, cache), job)
    for name in found["images"]:
        typer.echo(f"{name}: {done}")
    if "freed" in found:
        typer.echo(f"{sized(found['freed'])} freed")


def _show(images: list[Mapping[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="")
    for column in ("IMAGE", "DIGEST", "PLATFORMS", "SIZE", "SHARED", "AGE", "USED", ""):
        table.add_column(column, justify="right" if column in {"SIZE", "SHARED", "AGE", "USED"} else "left")
    for image in images:
        notes = [word for word, holds in (("pinned", image["pinned"]), ("incomplete", not image["complete"])) if holds]
        table.add_row(
            image["name"].partition("@")[0],
            image["digest"].partition(":")[2][:12],
            " ".join(image["platforms"]),
            sized(image["size"]),
            sized(image["shared"]),
            _since(image["checked"]),
            _since(image["used"]),
            ", ".join(notes),
        )
    console = Console(soft_wrap=True)
    if not console.is_terminal:
        console.width = 1000  # columns are for people; programs that read this want whole lines
    console.print(table)


def _since(moment: float | None) -> str:
    if not moment:
        return "-"
    seconds = max(0, int(time.time() - moment))
    return next((f"{seconds // unit} {name}" for unit, name in _AGES if seconds >= unit), f"{seconds} s")
