"""Work on many items in threads, in order and in bounded memory."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import TypeVar

_In = TypeVar("_In")
_Out = TypeVar("_Out")
NUM_THREADS = 8
IDLE_S = 0.5


def in_threads(
    function: Callable[[_In], _Out],
    items: Iterable[_In],
    *,
    num_threads: int = NUM_THREADS,
    num_ahead: int | None = None,
    while_waiting: Callable[[], None] | None = None,
) -> Generator[_Out, None, None]:
    """Yield `function(item)` for each item, in order.

    Items are taken, and results held, `num_ahead` ahead of the one that is yielded (by default four for each thread).
    What `function` raises is raised where its result would have come, and ends the rest: nothing more is started, and
    what runs is waited for. So does closing the generator, as a caller does that may leave before its end.
    `while_waiting` is called every IDLE_S seconds, in the caller's thread, while the next result is waited for.
    """
    num_ahead = 4 * num_threads if num_ahead is None else num_ahead
    threads = ThreadPoolExecutor(num_threads, thread_name_prefix="in_threads")
    waiting: deque[Future[_Out]] = deque()
    rest = iter(items)
    try:
        while True:
            missing = num_ahead + 1 - len(waiting)
            waiting.extend(threads.submit(function, item) for item in islice(rest, missing))
            if not waiting:
                return
            while while_waiting and not wait([waiting[0]], IDLE_S).done:
                while_waiting()
            yield waiting.popleft().result()
    finally:
        threads.shutdown(wait=True, cancel_futures=True)


def in_daemon_threads(
    function: Callable[[_In], _Out],
    items: Sequence[_In],
    *,
    num_threads: int = NUM_THREADS,
    while_waiting: Callable[[], None] | None = None,
) -> Generator[_Out, None, None]:
    """Yield `function(item)` for each item, in order, as `in_threads` does; but who leaves early waits for nothing.

    What runs then is abandoned: it ends by itself or with the process. For long work that a kill does not harm, such as
    fetching a large file: Ctrl-C is not to wait for it.
    """
    futures: list[Future[_Out]] = [Future() for _ in items]
    todo: SimpleQueue[tuple[_In, Future[_Out]]] = SimpleQueue()
    for pair in zip(items, futures, strict=True):
        todo.put(pair)
    left = Event()

    def work() -> None:
        while not left.is_set():
            try:
                item, future = todo.get_nowait()
            except Empty:
                return
            try:
                future.set_result(function(item))
            except BaseException as error:  # noqa: BLE001 - it is raised where the result is waited for
                future.set_exception(error)

    for _ in range(min(num_threads, len(items))):
        Thread(target=work, name="in_daemon_threads", daemon=True).start()
    try:
        for future in futures:
            while while_waiting and not wait([future], IDLE_S).done:
                while_waiting()
            yield future.result()
    finally:
        left.set()
