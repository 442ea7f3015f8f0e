"""What a measurement is given: the content, its upstream, and contestants on cold and on warm caches."""

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
    """Where contestants take turns."""

    folder: Path
    content: Content
    upstream: Server  # the fast one
    contestants: Sequence[Contestant]
    rounds: int
    console: Console
    patience: float = 0.0  # seconds to wait, before each sample, for other programs to be quiet
    problems: list[str] = field(default_factory=list)
    _filled: set[str] = field(default_factory=set)

    def take_turns(
        self, what: str, act: Callable[[Contestant, int], str], *, among: Container[str] | None = None
    ) -> None:
        """A B C, A B C, …: *act* measures a contestant in a round, and says what came of it.

        All contestants or those whose names are *among*. Who fails in a round is left out of the later ones, and the
        table says why.
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
        """Running, its cache empty; gone afterwards, and with it what the disk still had to write."""
        folder = self.folder / "cold" / contestant.name
        try:
            with contestant.running(folder, (upstream or self.upstream).url) as server:
                yield server
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.sync()

    def warm_memory_for(self, blob: Blob) -> None:
        """To be called right before a cold pull: its pages are to come from this machine, not from its host."""
        machine.warm_memory(blob.size * 5 // 4)

    @contextmanager
    def warm(self, contestant: Contestant) -> Iterator[Server]:
        """Freshly started on a cache that holds the image; filled, and its bytes checked, when that is asked first."""
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
        """All at once, by name, so that they can take turns; who does not start is missing."""
        servers = {}
        with ExitStack() as running:
            for contestant in self.contestants:
                with self.forgiving(contestant, what):
                    servers[contestant.name] = running.enter_context(self.warm(contestant))
            yield servers

    @contextmanager
    def forgiving(self, contestant: Contestant, what: str) -> Iterator[None]:
        """A contestant's failure is noted, and the run goes on."""
        try:
            yield
        except BenchError as error:
            problem = f"{contestant.name}, {what}: {error}"
            if problem not in self.problems:
                self.problems.append(problem)

    def say(self, line: str) -> None:
        """Progress, apart from the table."""
        self.console.print(line, style="dim", highlight=False, soft_wrap=True)

    def _fill(self, server: Server) -> None:
        for path in (self.content.by_tag, self.content.by_digest):
            pulls.complete(Order(server.port, path))
        pulls.check(server, self.content.large)
