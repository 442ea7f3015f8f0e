"""An event loop whose clock advances only while it is idle, so that waiting takes no time.

The clock stands still while callbacks or threads run, and jumps to the next timer when nothing runs. A test never
sleeps, `settle` runs everything that happens by itself, and waiting for ever raises Stuck.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar, TypeVarTuple

_Result = TypeVar("_Result")
_Arguments = TypeVarTuple("_Arguments")
_THREADS_TAKE = 60.0  # seconds before a thread counts as stuck
_LONG = 3600.0  # seconds on the loop's own clock: longer than every pause in the code


class Stuck(BaseException):
    """All tasks wait, and no event is left that could resume one."""


class _Selector(selectors.DefaultSelector):
    loop: "Loop"

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if self.loop.working:
            ready = super().select(_THREADS_TAKE)
            if not ready:
                raise Stuck("a thread does not finish")
        elif timeout is None:
            raise Stuck("all tasks wait, and no timer or event is left")
        else:
            self.loop.now += timeout
        return ready


class Loop(asyncio.SelectorEventLoop):
    """An event loop. `now` is its clock, `working` the number of unfinished calls in threads."""

    def __init__(self) -> None:
        selector = _Selector()
        selector.loop = self
        self.now = 0.0
        self.working = 0
        super().__init__(selector)
        self._threads = ThreadPoolExecutor(2)
        self.set_default_executor(self._threads)

    def close(self) -> None:
        self._threads.shutdown()
        super().close()

    def time(self) -> float:
        return self.now

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*_Arguments], _Result], *args: *_Arguments
    ) -> "asyncio.Future[_Result]":
        self.working += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._answered)
        return future

    def _answered(self, _: "asyncio.Future[Any]") -> None:
        self.working -= 1

    def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        return self.run_until_complete(work)

    def settle(self) -> None:
        """Run until only timers beyond _LONG seconds are left."""
        self.run(asyncio.sleep(_LONG))


@contextmanager
def new_loop() -> Iterator[Loop]:
    """Yield a loop; assert that no task is left at its end."""
    loop = Loop()
    try:
        yield loop
        left = asyncio.all_tasks(loop)
        assert not left, left
    finally:
        loop.close()
