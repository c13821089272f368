"""Many small requests at once, in bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_In = TypeVar("_In")
_Out = TypeVar("_Out")
NUM_THREADS = 8


def in_threads(function: Callable[[_In], _Out], items: Iterable[_In]) -> Iterator[_Out]:
    """Yield `function(item)` for each item, in order; items are taken, and results held, a few dozen ahead."""
    with ThreadPoolExecutor(NUM_THREADS) as workers:
        waiting: deque[Future[_Out]] = deque()
        for item in items:
            waiting.append(workers.submit(function, item))
            if len(waiting) > 4 * NUM_THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
