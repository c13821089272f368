"""Does the live page cost training anything? Seconds a step while five readers look at it, and while nobody does.

    python -m benchmarks.ui [SECONDS]

Needs a finished `make demo`: its data stages are copied, and the demo is trained in a folder of its own while `sana ui`
serves it. Each reader opens the page of the training, keeps its events open and plays its video again and again. They
come and go in turns of some seconds, so that machine noise leaves the ratio. One core is the trainer's; server and
readers, which would be other machines' browsers, share the rest.
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

import psutil

from benchmarks.ranks import DATA
from sana import metrics as m
from tests.loopback_servers import free_port

NUM_READERS = 5
TURN_S, SETTLE_S = 6.0, 1.0  # of each turn, the first second belongs to none
LOG_EVERY = 10


def main(seconds: float = 120.0) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = folder / "root"
        for stage in (*DATA, "sample"):
            shutil.copytree(Path(".sana/store", stage), root / stage)
        with training(folder, root) as (metrics, run), page(root) as (url, server), readers() as say:
            wait_for_rows(metrics)
            trainer = next(one for one in run.children(recursive=True) if "sana.workers.train" in one.cmdline())
            trajectory = next(path.name for path in root.glob("train/*") if (path / "checkpoints").is_dir())
            cpu = server.cpu_times()
            measured = turns(metrics, trainer, say, f"{url}/training/{trajectory}", seconds)
            spent = sum(server.cpu_times()[:2]) - sum(cpu[:2])
            peak = server.memory_info().rss / 2**20
    of_turns = [median(turn.step_s) for turn in measured]  # the first and every second after it without readers
    alone, watched = (
        sum(t.cpu_s for t in some) / sum(t.steps for t in some) for some in (measured[::2], measured[1::2])
    )
    ratios = [
        watched / ((before + after) / 2)
        for before, watched, after in zip(of_turns[::2], of_turns[1::2], of_turns[2::2], strict=False)
    ]
    print("| readers | turns | s a step | of the turns before and after | CPU s a step | ratio |")
    print("|---|---|---|---|---|---|")
    print(f"| none | {len(of_turns[::2])} | {median(of_turns[::2]):.4f} | 1 | {alone:.4f} | 1 |")
    print(
        f"| {NUM_READERS} | {len(of_turns[1::2])} | {median(of_turns[1::2]):.4f} | {median(ratios):.3f} "
        f"| {watched:.4f} | {watched / alone:.3f} |"
    )
    print(f"\nThe server: {100 * spent / (seconds / 2):.0f} % of one core while read, {peak:.0f} MiB.")


@contextlib.contextmanager
def training(folder: Path, root: Path) -> Iterator[tuple[Path, psutil.Process]]:
    """Train the demo for longer than this lasts; yields the folder below which its rows are written, and the run."""
    settings = {
        "root": root,
        "work_dir": folder / "work",
        "train.max_steps": 1_000_000,
        "train.resources.checkpoint_every": 200,
        "train.resources.eval_every": 200,
        "train.resources.log_every": LOG_EVERY,
    }
    command = [sys.executable, "-m", "flows.cli.main", "run", "configs/demo.yaml", "--until", "train"]
    sets = [part for key, value in settings.items() for part in ("-s", f"{key}={value}")]
    with child([*command, *sets]) as process:
        yield folder / "work" / "train", psutil.Process(process.pid)


@contextlib.contextmanager
def page(root: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Serve the page as a user does; yields its address and its process."""
    port = free_port()
    with child([sys.executable, "-m", "flows.cli.main", "ui", str(root), "--port", str(port)]) as process:
        url = f"http://127.0.0.1:{port}"
        for _ in range(300):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5):
                break
            time.sleep(0.1)
        yield url, psutil.Process(process.pid)


@contextlib.contextmanager
def child(command: list[str]) -> "Iterator[subprocess.Popen[str]]":
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True,
        start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def wait_for_rows(folder: Path) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        if sum(path.stat().st_size for path in folder.rglob("metrics.jsonl")) > 100_000:
            return
        time.sleep(0.5)
    raise TimeoutError("the training writes no metrics")


class Turn(NamedTuple):
    """Some seconds with or without readers: seconds a step of its log windows, and the trainer's CPU seconds of all."""

    step_s: list[float]
    cpu_s: float
    steps: int


def turns(folder: Path, trainer: psutil.Process, say: "Readers", url: str, seconds: float) -> list[Turn]:
    """Return what was measured in each turn: first nobody reads, then all, and so on."""
    path = max(folder.rglob("metrics.jsonl"), key=lambda found: found.stat().st_mtime)
    found: list[Turn] = []
    ends = time.monotonic() + seconds
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        on = False
        while time.monotonic() < ends:
            say(url if on else "")
            time.sleep(SETTLE_S)
            file.read()
            stop = time.monotonic() + TURN_S - SETTLE_S + random.random()
            rest, windows, steps, began = b"", list[float](), 0, sum(trainer.cpu_times()[:2])
            while time.monotonic() < stop:
                time.sleep(0.1)
                *lines, rest = (rest + file.read()).split(b"\n")
                rows = [json.loads(line) for line in lines if line.startswith(b"{")]
                steps += sum(m.TRAIN_LOSS in row for row in rows)
                windows += [row[m.STEP_S] for row in rows if m.STEP_S in row and row[m.STEP] % LOG_EVERY == 0]
            if windows:  # else the turn is longer: the machine is very busy
                found.append(Turn(windows, sum(trainer.cpu_times()[:2]) - began, steps))
                on = not on
    return found


class Readers:
    """Tells the process of the readers what to look at; "" for nothing."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def __call__(self, url: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{url}\n")
        self._process.stdin.flush()


@contextlib.contextmanager
def readers() -> Iterator[Readers]:
    with child([sys.executable, "-m", "benchmarks.ui", "--readers"]) as process:
        yield Readers(process)


def read_on_demand() -> None:
    """Be the readers: look at the address of each line of stdin until the next one."""
    stop = threading.Event()
    for line in sys.stdin:
        stop.set()
        if url := line.strip():
            stop = threading.Event()
            for _ in range(NUM_READERS):
                threading.Thread(target=look, args=(url, stop), daemon=True).start()


def look(url: str, stop: threading.Event) -> None:
    """Do what a browser does: the page, its videos, its events."""
    server, _, key = url.partition("/training/")
    html = urllib.request.urlopen(url, timeout=60).read().decode()
    videos = re.findall(r'<video [^>]*src="([^"]+)"', html)
    with urllib.request.urlopen(f"{server}/events?page=training&key={key}", timeout=60) as events:
        while not stop.is_set():
            events.readline()
            for address in videos[:2]:
                request = urllib.request.Request(f"{server}{address}", headers={"Range": "bytes=0-"})
                urllib.request.urlopen(request, timeout=60).read()


if __name__ == "__main__":
    if sys.argv[1:] == ["--readers"]:
        read_on_demand()
    else:
        main(*(float(text) for text in sys.argv[1:]))
