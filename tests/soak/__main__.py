"""Entry point, `python -m tests.soak`: prints a report; the exit status is 1 if a rule was violated."""

import argparse
import asyncio
import contextlib
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.soak.report import report
from tests.soak.run import Plan, Soak


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak; return the exit status."""
    parser = argparse.ArgumentParser("tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="(default: 5)")
    parser.add_argument("--clients", type=int, default=12, help="(default: 12)")
    parser.add_argument("--seed", default=f"{time.time_ns():x}", help="of content, weather and clients (default: new)")
    parser.add_argument("--dir", type=Path, help="folder for the cache and the log, kept (default: a temporary one)")
    options = parser.parse_args(arguments)
    if options.dir is not None and (options.dir / "cache").exists():
        parser.error(f"{options.dir} holds the cache of an earlier run, which the model does not know")
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)  # the upstreams' log: faults make aiohttp report errors
    print(f"seed {options.seed}", file=sys.stderr, flush=True)
    plan = Plan(60 * options.minutes, options.clients, options.seed)
    with contextlib.ExitStack() as exits:
        directory = options.dir or Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        return asyncio.run(_soaked(plan, directory))


async def _soaked(plan: Plan, directory: Path) -> int:
    async with Soak.prepared(plan, directory) as soak:
        await soak.run()
        print(report(soak))
        return 1 if soak.model.broken else 0


if __name__ == "__main__":
    sys.exit(main())
