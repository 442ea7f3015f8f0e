"""Environment of a measurement: the content, its upstream, and contestants with cold and warm caches."""

import os
import shutil
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from bench import machine, pulls
from bench.client import Order
from bench.content import Blob, Content
from bench.contestants import Contestant
from bench.servers import BenchError, Server


@dataclass(slots=True)
class Stage:
    """Environment in which the contestants are measured alternately."""

    folder: Path
    content: Content
    upstream: Server  # the fast one
    contestants: Sequence[Contestant]
    rounds: int
    console: Console
    patience: float = 0.0  # maximum seconds to wait for an idle machine before each sample
    problems: list[str] = field(default_factory=list)
    _filled: set[str] = field(default_factory=set)

    def take_turns(
        self, what: str, act: Callable[[Contestant, int], str], *, among: Container[str] | None = None
    ) -> None:
        """Measure the contestants in rounds: A B C, A B C, ….

        A contestant that fails in a round is left out of later rounds, and the reason is noted below the table.

        Args:
            what: the label of the measurement.
            act: measures a contestant in a round, and returns its result for the progress output.
            among: the names of the contestants to measure; None for all.
        """
        playing = [contestant for contestant in self.contestants if among is None or contestant.name in among]
        for turn in range(self.rounds):
            for contestant in list(playing):
                outcome = "failed"
                machine.await_quiet(self.patience)
                with self.forgiving(contestant, what):
                    outcome = act(contestant, turn)
                if outcome == "failed":
                    playing.remove(contestant)
                self.say(f"{what} {turn + 1}/{self.rounds} {contestant.name}: {outcome}")

    @contextmanager
    def cold(self, contestant: Contestant, upstream: Server | None = None) -> Iterator[Server]:
        """Run a contestant with an empty cache. Afterwards, delete the cache and flush the disk's pending writes."""
        folder = self.folder / "cold" / contestant.name
        try:
            with contestant.running(folder, (upstream or self.upstream).url) as server:
                yield server
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.sync()

    def warm_memory_for(self, blob: Blob) -> None:
        """Prepare memory for a cold pull of *blob*. Call it right before the pull; see machine.warm_memory."""
        machine.warm_memory(blob.size * 5 // 4)

    @contextmanager
    def warm(self, contestant: Contestant) -> Iterator[Server]:
        """Start a contestant with a cache that contains the image. The first call fills the cache and verifies it."""
        folder = self.folder / "warm" / contestant.name
        if contestant.name not in self._filled:
            with contestant.running(folder, self.upstream.url) as server:
                self._fill(server)
            os.sync()
            self._filled.add(contestant.name)
        with contestant.running(folder, self.upstream.url) as server:
            yield server

    @contextmanager
    def all_warm(self, what: str) -> Iterator[dict[str, Server]]:
        """Run all contestants with warm caches at once. Yield them by name, without those that fail to start."""
        servers = {}
        with ExitStack() as running:
            for contestant in self.contestants:
                with self.forgiving(contestant, what):
                    servers[contestant.name] = running.enter_context(self.warm(contestant))
            yield servers

    @contextmanager
    def forgiving(self, contestant: Contestant, what: str) -> Iterator[None]:
        """Note a contestant's failure and continue the run."""
        try:
            yield
        except BenchError as error:
            problem = f"{contestant.name}, {what}: {error}"
            if problem not in self.problems:
                self.problems.append(problem)

    def say(self, line: str) -> None:
        """Print a line of progress, to a different stream than the table."""
        self.console.print(line, style="dim", highlight=False, soft_wrap=True)

    def _fill(self, server: Server) -> None:
        for path in (self.content.by_tag, self.content.by_digest):
            pulls.complete(Order(server.port, path))
        pulls.check(server, self.content.large)
