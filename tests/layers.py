"""The dependency order of the package, in one list: `mirror.__doc__` and the layer test are generated from it."""

from __future__ import annotations

import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1] / "mirror"
DOCSTRING = ROOT / "__init__.py"

LAYERS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("errors",), "every failure that the mirror names"),
    (("oci", "primitives"), "the specifications' values and grammars, pure; LRU, singleflight, semaphores"),
    (("auth", "clients", "observability"), "users and access rules; client configuration files; log, metrics, version"),
    (("config", "origin"), "validated settings; the pull context and the protocol of blob origins"),
    (("storage", "upstream"), "blobs and facts on disk; the only HTTP client"),
    (("catalog",), "manifests, images and rights in the cache"),
    (("pull",), "a pull from request to answer: hit, join, download, revalidate, stale"),
    (("server", "admin", "maintenance"), "the only HTTP server; the admin socket; periodic tasks and verification"),
    (("airgap", "assembly"), "bundles for closed networks; construction and lifetimes of all parts"),
    (("doctor",), "checks of everything that the mirror needs, each with its fix"),
    (("cli",), "the commands"),
    (("__main__",), "the program"),
)
"""From bottom to top: a package imports only packages of earlier layers, never of its own or a later one."""

PURE = (
    "auth/rules.py",
    *(
        f"clients/{name}.py"
        for name in (
            *("__init__", "address", "all_clients", "buildkit", "client", "containerd", "docker"),
            *("k3s", "kaniko", "kubernetes", "mentions", "podman", "toml"),
        )
    ),
    "oci/",
    "pull/freshness.py",
    "storage/eviction.py",
    "storage/facts.py",
    "storage/index_json.py",
    "upstream/selection.py",
)
"""Modules and packages (with `/`) that decide without I/O: no event loop, no network, no file system, no clock."""

IMPURE = ("asyncio", "aiohttp", "os", "time")

_SUMMARY = "A pull-through caching mirror for container images."
_PATHS = """\
A hit: `server/listener` accepts, `server/app` authenticates and parses the request (`oci/routes`), `pull/service`
decides (`pull/freshness`), `storage` opens the blob, and `server/response_writer` sends it. A miss: `pull/service`
joins or starts a download (`pull/downloads`); its task copies bytes from an origin into an ingest of `storage`, and
every reader follows the growing file. A tag: a fact in `storage`, fresh, revalidated or stale.
"""


def docstring() -> str:
    """Return the text of `mirror/__init__.py`."""
    width = max(len("  ".join(names)) for names, _ in LAYERS)
    rows = "".join(f"    {'  '.join(names):<{width}}  {text}\n" for names, text in LAYERS)
    order = "Packages in dependency order: each imports only packages of the lines above its own."
    return f'"""{_SUMMARY}\n\n{order}\n\n{rows}\n{textwrap.dedent(_PATHS)}"""\n'


if __name__ == "__main__":
    DOCSTRING.write_text(docstring())
