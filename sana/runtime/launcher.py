"""The launcher of worker processes: one per rank, all in one process group, talking through files only.

Ranks are started here rather than by torchrun, which puts each rank into a session of its own and closes inherited
files: a cancel would not reach them and the lock would not be held by them. What they find in the environment is what
torchrun sets, so `torchrun --nproc-per-node N -m <module> JOB` starts the same worker by hand, on several machines too.
"""

import fcntl
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from sana.errors import DiskFullError, SanaError
from sana.progress import Progress, Report
from sana.runtime.tail import Tail

# A worker that ends with one of these wrote `error_path`, whose text is all there is to say.
EXIT_USER_ERROR = 3  # trying again will not help
EXIT_DISK_FULL = 74  # there was no room even for `error_path` (EX_IOERR of sysexits.h)
EXIT_TRY_AGAIN = 75  # it may help: storage or the network failed (EX_TEMPFAIL of sysexits.h)
POLL_S = 0.2
FORWARD_S = 2.0  # at most one ordinary log line is forwarded in this time; warnings and errors always are
GRACE_S = 25.0  # from SIGTERM to SIGKILL: Prefect's own grace is 30 s, and not for us to change
LOCK_WAIT_S = 60.0  # the ranks of a cancelled run may still be writing a checkpoint
TAIL_LINES = 15
_PORTS = range(20_000, 30_000)  # below those that Linux gives to outgoing connections: ranks listen seconds later
_ASKED_TO_END = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

log = logging.getLogger(__name__)


class WorkerError(SanaError):
    """A worker crashed, hung, or could not start: trying again may help."""


class WorkerKilledError(WorkerError):
    """A worker was killed by a signal that is not sent to end it in order: what it read may have crashed it.

    `ranks` are those that did, before we ended the others.
    """

    ranks: tuple[int, ...] = ()


class WorkerAgainError(WorkerError):
    """What was in a worker's way may pass by itself: storage or the network failed, or another run is at work."""


class WorkerStartError(WorkerError):
    """A worker ended with a traceback before it had done anything: trying again will not help."""


def progress_path(job_path: Path) -> Path:
    """File of JSON lines, one Progress each, that the worker appends to."""
    return job_path.with_suffix(".progress.jsonl")


def result_path(job_path: Path) -> Path:
    """File of the record in which a worker says what it made, where it makes one."""
    return job_path.with_suffix(".result.json")


def error_path(job_path: Path) -> Path:
    """File that holds the message of the SanaError that ended the worker."""
    return job_path.with_suffix(".error.txt")


def launch(
    module: str,
    job_path: Path,
    *,
    num_processes: int = 1,
    log_path: Path,
    lock_path: Path | None,
    report: Report,
    stall_timeout_s: float | None,
    lock_wait_s: float = LOCK_WAIT_S,
    grace_s: float = GRACE_S,
) -> None:
    """Run `python -m module job_path` to its end, on `num_processes` ranks, and report its progress as it comes.

    Whatever ends this function ends the ranks: on an exception, Ctrl-C or a cancel they get SIGTERM, `grace_s` seconds
    and SIGKILL. If this process is killed, each rank gets SIGTERM from the kernel (`sana.runtime.job.die_with_parent`).
    Call it from the main thread: that signal is tied to the thread that starts the ranks.

    Args:
        log_path: gets what the ranks print; warnings in it, and a line now and then, are logged here as well.
        lock_path: held until the last rank is gone, even if this process is killed; None: no lock.
        stall_timeout_s: end the ranks when no progress line came for this long, seconds; None: never.
        lock_wait_s: how long to wait for the lock, seconds.

    Raises:
        SanaError: the worker ended with a message for the user, which this is.
        WorkerError: it crashed, was killed, reported nothing for too long, or another one holds the lock.
        WorkerKilledError: it was killed by a signal such as SIGSEGV, or by SIGKILL.
        WorkerStartError: it ended otherwise, before it reported anything.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(lock_path, lock_wait_s) as lock_fd, log_path.open("ab") as output:
        ranks: list[subprocess.Popen[bytes]] = []
        try:
            # before the first rank: all that it writes is new
            progress, lines = Tail(progress_path(job_path)), Tail(log_path)
            for env in _environments(num_processes):
                ranks.append(_start([sys.executable, "-m", module, str(job_path)], env, ranks, output, lock_fd))
            progressed = _follow(ranks, progress, lines, report, stall_timeout_s, f"{module}: log in {log_path}")
        except BaseException:
            try:
                report(Progress(0, 0, "", phase="waiting for its process to end"))
            finally:
                _end(ranks, grace_s)
            for line in progress.new_lines():  # a trainer takes the step that it is at to its end
                report(Progress.from_line(line, where=str(progress.path)))
            raise
        failed = {number: rank.returncode for number, rank in enumerate(ranks) if rank.poll()}
        _end(ranks, grace_s)  # one rank failed: the others would wait for it for ever
    if failed:
        # a rank that was killed before one that only lost its connection to it
        code = min(failed.values(), key=lambda code: (code >= 0, code == EXIT_TRY_AGAIN))
        failure = _failure(module, code, error_path(job_path), log_path, progressed)
        if isinstance(failure, WorkerKilledError):
            failure.ranks = tuple(number for number, code in failed.items() if code < 0)
        raise failure


@contextmanager
def _locked(path: Path | None, wait_s: float) -> Iterator[int | None]:
    """Hold an exclusive lock on a file and give its descriptor, for the ranks to hold as well."""
    if path is None:
        yield None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        deadline = time.monotonic() + wait_s
        waiting = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                owner = path.read_text(encoding="utf-8").strip() or "unknown"
                if time.monotonic() >= deadline:
                    raise WorkerAgainError(
                        f"another run (pid {owner}) holds {path} and did not end within {wait_s:g} s; "
                        "wait for it, or cancel it, and run again"
                    ) from None
                if not waiting:
                    log.info("waiting up to %g s for the run of pid %s, which holds %s", wait_s, owner, path)
                waiting = True
                time.sleep(POLL_S)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield file.fileno()


def _environments(num_processes: int) -> list[dict[str, str]]:
    """Return the environment of each rank: ours, plus what torch.distributed expects of torchrun."""
    base = {**os.environ, "SANA_PARENT_PID": str(os.getpid()), "TQDM_DISABLE": "1", "PYTHONUNBUFFERED": "1"}
    if num_processes == 1:
        return [base]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(num_processes)}
    shared |= {"LOCAL_WORLD_SIZE": str(num_processes)}
    return [base | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num_processes)]


def _free_port() -> int:
    """Return a port at which nothing listens. Raises WorkerError: there is none."""
    for port in random.SystemRandom().sample(_PORTS, min(len(_PORTS), 100)):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise WorkerError(f"ranks need a port to meet at, and none of {_PORTS[0]} to {_PORTS[-1]} is free on 127.0.0.1")


def _start(
    command: list[str],
    env: Mapping[str, str],
    ranks: list[subprocess.Popen[bytes]],
    output: IO[bytes],
    lock_fd: int | None,
) -> subprocess.Popen[bytes]:
    """Start one rank in the process group of the first."""
    return subprocess.Popen(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        process_group=ranks[0].pid if ranks else 0,  # not ours: Ctrl-C reaches us alone, and we end them in order
        pass_fds=[] if lock_fd is None else [lock_fd],
    )


def _follow(
    ranks: list[subprocess.Popen[bytes]],
    progress: Tail,
    lines: Tail,
    report: Report,
    stall_timeout_s: float | None,
    where: str,
) -> bool:
    """Pass progress and log lines on until all ranks have ended, or one has failed; returns if any progress came."""
    progressed = False
    heard = forwarded = time.monotonic()
    while True:
        # asked before reading: what was written before the end is read after it
        codes = [rank.poll() for rank in ranks]
        for line in progress.new_lines():
            heard = time.monotonic()
            said = Progress.from_line(line, where=str(progress.path))
            progressed = progressed or not said.phase  # what it says while it loads a model is no work done
            report(said)
        forwarded = _forward(lines.new_lines(), forwarded)
        if any(codes) or None not in codes:
            return progressed
        if stall_timeout_s is not None and time.monotonic() - heard > stall_timeout_s:
            raise WorkerError(f"no progress for {stall_timeout_s:g} s, ended it. {where}")
        time.sleep(POLL_S)


def _forward(lines: list[str], last: float) -> float:
    """Log every warning and error of a worker, and now and then what else it says; returns when that was."""
    for line in lines:
        if " WARNING " in line or " ERROR " in line:
            log.warning("%s", line)
    if lines and time.monotonic() - last > FORWARD_S:
        log.info("%s", lines[-1])
        return time.monotonic()
    return last


def _end(ranks: list[subprocess.Popen[bytes]], grace_s: float) -> None:
    """SIGTERM to the group, time to write a checkpoint, SIGKILL: also for what the ranks left behind."""
    if not ranks:
        return
    group = ranks[0].pid
    try:
        if any(rank.poll() is None for rank in ranks):
            _signal(group, signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline and any(rank.poll() is None for rank in ranks):
            time.sleep(POLL_S / 4)
    finally:  # a second Ctrl-C ends the waiting, not the killing
        _signal(group, signal.SIGKILL)
        for rank in ranks:
            rank.wait()


def _signal(group: int, signum: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signum)


def _failure(module: str, code: int, error_file: Path, log_path: Path, progressed: bool) -> SanaError:
    if code == EXIT_DISK_FULL:
        return DiskFullError(
            f"{module}: the disk of work_dir is full ({log_path.parent}): free some space, or set work_dir to a folder "
            "on another disk, then run again: what was finished is kept"
        )
    if code in (EXIT_USER_ERROR, EXIT_TRY_AGAIN) and error_file.exists():
        kind = SanaError if code == EXIT_USER_ERROR else WorkerAgainError
        return kind(error_file.read_text(encoding="utf-8"))
    how = f"ended with exit code {code}"
    if code < 0:
        how = f"was killed by {signal.Signals(-code).name}"
        how += ": often out of memory" if code == -signal.SIGKILL else ""
    tail = log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
    text = "\n".join([f"{module} {how}; its log is {log_path}", "  it ends:", *(f"  {line}" for line in tail)])
    if code < 0:
        return WorkerError(text) if -code in _ASKED_TO_END else WorkerKilledError(text)
    return WorkerError(text) if progressed else WorkerStartError(text)
