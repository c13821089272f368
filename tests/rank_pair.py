"""A pair of ranks as long as a test run: every case with two ranks runs in it, for a fresh pair takes seconds.

    def _norms(scale: float) -> float: ...        # importable, the same on both ranks; opens what it needs

    def test_norms(pair: RankPair) -> None:
        first, second = pair.run(_norms, 2.0)     # what each rank returned, picklable

Each rank has torchrun's environment, so `Parallel.open(config)` joins the two on gloo. Between cases accelerate forgets
its state, but not the process group: opening it again costs milliseconds. A case that fails, on any rank, or is too
late, ends the pair, as the other rank may wait in a collective; the next case starts another.

`make test` runs two pytest processes and each has a pair of its own if it meets such a case: keep cases of two ranks in
few files. Memory that a case holds on to stays in the pair: return numbers, not models.
"""

import faulthandler
import importlib.util
import os
import pickle
import socket
import sys
import traceback
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from tests.forked import start

NUM_RANKS = 2
TIME_LIMIT_S = 90.0


class RankError(AssertionError):
    """A case failed on a rank, which this names with its traceback, or both took too long."""


class RankPair:
    """Two processes, started at the first case."""

    def __init__(self) -> None:
        self._processes: list[BaseProcess] = []
        self._pipes: list[Connection] = []

    def run(self, function: Callable[..., Any], *args: Any, time_limit_s: float = TIME_LIMIT_S) -> list[Any]:
        """Call `function(*args)` on both ranks at once; returns what each returned, rank 0 first.

        Raises:
            RankError: it raised on a rank; the cause is the exception, where that can be pickled. Or it is late.
        """
        if any(process.exitcode is not None for process in self._processes):
            self.end()
        if not self._processes:
            self._start()
        for pipe in self._pipes:
            pipe.send((sys.path, _module_file(function), pickle.dumps((function, args)), time_limit_s))
        results: dict[int, Any] = {}
        while len(results) < NUM_RANKS:
            waiting = {pipe: rank for rank, pipe in enumerate(self._pipes) if rank not in results}
            ready = wait(list(waiting), timeout=time_limit_s)
            if not ready:
                self.end()
                raise RankError(f"{function.__name__}: ranks {sorted(waiting.values())} took over {time_limit_s:g} s")
            for pipe in ready:
                assert isinstance(pipe, Connection)
                results[waiting[pipe]] = self._result(function.__name__, waiting[pipe], pipe)
        return [results[rank] for rank in range(NUM_RANKS)]

    def _result(self, name: str, rank: int, pipe: Connection) -> Any:
        try:
            result, error, trace = pipe.recv()
        except EOFError:
            self._processes[rank].join(5)
            code = self._processes[rank].exitcode
            self.end()
            raise RankError(f"{name}: rank {rank} ended with {code}") from None
        if trace:
            self.end()
            raise RankError(f"{name}: rank {rank} failed\n{trace}") from error
        return result

    def _start(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        for rank in range(NUM_RANKS):
            ours, theirs = Pipe()
            environ = {
                "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": NUM_RANKS, "LOCAL_WORLD_SIZE": NUM_RANKS,
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
            }  # fmt: skip
            self._processes.append(start(_serve, {name: str(value) for name, value in environ.items()}, theirs))
            self._pipes.append(ours)
            theirs.close()

    def end(self) -> None:
        """End both ranks."""
        for process in self._processes:
            process.kill()
            process.join()
        for pipe in self._pipes:
            pipe.close()
        self._processes, self._pipes = [], []


def _module_file(function: Callable[..., Any]) -> tuple[str, str | None]:
    """Return the name and file of a function's module: pytest imports test files by path, which names do not tell."""
    return function.__module__, getattr(sys.modules[function.__module__], "__file__", None)


def _serve(environ: dict[str, str], pipe: Connection) -> None:
    """Be a rank: call what comes through the pipe, until it closes."""
    from accelerate.state import PartialState

    os.environ.update(environ)
    # a training ends its process group; another one through the same store would meet the addresses of the first
    PartialState.destroy_process_group = lambda *_: None  # type: ignore[method-assign]
    while True:
        try:
            path, (name, file), pickled, time_limit_s = pipe.recv()
        except EOFError:
            return
        sys.path[:] = path
        faulthandler.dump_traceback_later(0.9 * time_limit_s)  # to stderr, where each thread hangs
        try:
            _import(name, file)
            function, args = pickle.loads(pickled)  # noqa: S301 - of the test itself
            reply = pickle.dumps((function(*args), None, ""))
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test is told
            reply = _failure(error)
        finally:
            faulthandler.cancel_dump_traceback_later()
            _forget_state()
        pipe.send_bytes(reply)


def _import(name: str, file: str | None) -> None:
    if name in sys.modules or file is None:
        return
    try:
        if importlib.util.find_spec(name) is not None:
            return
    except ModuleNotFoundError:
        pass
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


def _failure(error: BaseException) -> bytes:
    trace = traceback.format_exc()
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - ours; some can be pickled and not read back
    except Exception:  # noqa: BLE001 - whatever a foreign exception does then
        return pickle.dumps((None, None, trace))
    return pickle.dumps((None, error, trace))


def _forget_state() -> None:
    """Let the next case open an Accelerator of other settings; the process group stays."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
