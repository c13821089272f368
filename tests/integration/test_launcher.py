"""The launcher, with real child processes: what they say arrives, and none of them outlives whoever asked for it."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sana.errors import SanaError
from sana.progress import Progress
from sana.runtime.launcher import WorkerError, WorkerStartError, launch

SAY = """
import json, os, signal, subprocess, sys, time
from pathlib import Path
job = Path(sys.argv[1])
spec = json.loads(job.read_text())
def say(done, **more):
    line = {"format": 1, "done": done, "total": 3, "unit": "steps", "detail": "", "metrics": [], **more}
    with job.with_suffix(".progress.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\\n")
def note(name):
    job.with_name(name).write_text(str(os.getpid()))
"""
# what `sana.runtime.job.run_worker` does first; left out elsewhere, because its imports take a second
TIED = """
from sana.runtime.job import die_with_parent
die_with_parent()
"""
# writes its pid, then waits; SIGTERM takes a moment, as a checkpoint does, and leaves a trace
WAIT = """
def on_term(*_):
    time.sleep(spec.get("checkpoint_s", 0.3))
    note("terminated")
    raise SystemExit(143)
signal.signal(signal.SIGTERM, on_term)
note("pid")
say(1)
while True:
    time.sleep(0.05)
"""


class Bench:
    """A folder with one worker module and the arguments to launch it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.heard: list[Progress] = []
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.getcwd()]))

    def launch(self, body: str, report: Callable[[Progress], None] | None = None, **options) -> None:
        arguments = self.arguments(body, options.pop("spec", {}), options.pop("name", "job"))
        launch(**arguments, **{"stall_timeout_s": None, **options}, report=report or self.heard.append)

    def arguments(self, body: str, spec: dict, name: str = "job") -> dict:
        module = f"worker_{name}"
        (self.folder / f"{module}.py").write_text(SAY + textwrap.dedent(body))
        job = self.folder / f"{name}.json"
        job.write_text(json.dumps(spec))
        return {
            "module": module,
            "job_path": job,
            "log_path": self.folder / f"{name}.log",
            "lock_path": self.folder / "train.lock",
        }

    def start_parent(self, body: str) -> subprocess.Popen[bytes]:
        """Launch from another process, which a test may kill."""
        arguments = {name: str(value) for name, value in self.arguments(body, {}).items()}
        code = (
            # a shell starts its background jobs, a test run among them, with SIGINT ignored, and children inherit that
            "import json, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "from pathlib import Path\n"
            "from sana.progress import noop; from sana.runtime.launcher import launch\n"
            "a = json.loads(sys.argv[1])\n"
            "launch(a['module'], Path(a['job_path']), log_path=Path(a['log_path']), lock_path=Path(a['lock_path']),"
            " report=noop, stall_timeout_s=None)"
        )
        return subprocess.Popen([sys.executable, "-c", code, json.dumps(arguments)])

    def wait_for(self, name: str, timeout_s: float = 20.0) -> int:
        """Wait for a note of the worker and return the pid in it."""
        deadline = time.monotonic() + timeout_s
        while not (self.folder / name).exists() or not (self.folder / name).read_text():
            assert time.monotonic() < deadline, f"no {name} after {timeout_s} s; {self.log()}"
            time.sleep(0.02)
        return int((self.folder / name).read_text())

    def log(self) -> str:
        path = self.folder / "job.log"
        return path.read_text() if path.exists() else "no log"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def is_alive(pid: int) -> bool:
    """A zombie that nobody reaped is not alive."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid: int, timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_alive(pid)


def test_progress_arrives_whole_and_in_order(bench: Bench) -> None:
    bench.launch("for i in (1, 2, 3): say(i, metrics=[{'step': i, 'train/loss': 0.5}])")
    assert [progress.done for progress in bench.heard] == [1, 2, 3]
    assert bench.heard[2] == Progress(3, 3, "steps", metrics=({"step": 3, "train/loss": 0.5},))


def test_a_users_error_is_the_workers_message_and_no_more(bench: Bench) -> None:
    with pytest.raises(SanaError) as caught:
        bench.launch("job.with_suffix('.error.txt').write_text('lower the learning rate'); sys.exit(3)")
    assert str(caught.value) == "lower the learning rate"
    assert not isinstance(caught.value, WorkerError)


def test_a_crash_names_the_module_the_log_and_its_end(bench: Bench) -> None:
    with pytest.raises(WorkerError) as caught:
        bench.launch("for i in range(100): print('line', i)\nraise RuntimeError('no such kernel')")
    message = str(caught.value)
    assert "worker_job ended with exit code 1" in message
    assert str(bench.folder / "job.log") in message
    assert "RuntimeError: no such kernel" in message and "line 99" in message and "line 50\n" not in message


def test_what_was_wrong_from_the_start_is_told_from_what_broke_later(bench: Bench) -> None:
    with pytest.raises(WorkerStartError):
        bench.launch("import no_such_module")
    with pytest.raises(WorkerError) as later:
        bench.launch("say(1)\nraise RuntimeError('connection lost')")
    with pytest.raises(WorkerError, match="^the bucket does not answer$") as passing:
        bench.launch("job.with_suffix('.error.txt').write_text('the bucket does not answer'); sys.exit(75)")
    assert not isinstance(later.value, WorkerStartError) and not isinstance(passing.value, WorkerStartError)


def test_a_kill_is_told_as_what_it_often_is(bench: Bench) -> None:
    with pytest.raises(WorkerError, match="was killed by SIGKILL: often out of memory"):
        bench.launch("os.kill(os.getpid(), signal.SIGKILL)")


def test_silence_ends_the_worker(bench: Bench) -> None:
    with pytest.raises(WorkerError, match=r"no progress for 3 s"):
        bench.launch(WAIT, stall_timeout_s=3.0)
    assert gone(bench.wait_for("terminated"))


def test_a_worker_that_ignores_sigterm_is_killed(bench: Bench) -> None:
    with pytest.raises(WorkerError, match="no progress"):
        bench.launch(WAIT, spec={"checkpoint_s": 600}, stall_timeout_s=3.0, grace_s=0.5)
    assert gone(bench.wait_for("pid"))


def test_a_cancel_ends_the_worker_and_its_children(bench: Bench) -> None:
    body = """
        if os.fork() == 0:
            note("child")
            time.sleep(600)
    """

    def cancel(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.launch(textwrap.dedent(body) + WAIT, report=cancel)
    assert gone(bench.wait_for("terminated")) and gone(bench.wait_for("child"))


def test_a_killed_parent_takes_its_worker_with_it_and_frees_the_lock_last(bench: Bench) -> None:
    parent = bench.start_parent(TIED + WAIT)
    worker = bench.wait_for("pid")
    with pytest.raises(WorkerError, match=f"another run \\(pid {parent.pid}\\) holds"):
        bench.launch("say(1)", name="second", lock_wait_s=0.5)
    parent.kill()
    parent.wait()
    bench.launch("say(1)", name="second", lock_wait_s=20.0)
    assert (bench.folder / "terminated").exists(), "the lock was free while the worker still wrote"
    assert gone(worker)


def test_sigterm_to_the_parent_of_a_waiting_launch_frees_the_lock(bench: Bench) -> None:
    parent = bench.start_parent(WAIT)
    bench.wait_for("pid")
    timer = threading.Timer(0.5, parent.send_signal, [signal.SIGINT])
    timer.start()
    bench.launch("say(1)", name="second", lock_wait_s=20.0)
    assert parent.wait() != 0
    assert bench.heard[0].done == 1


def test_two_ranks_meet_and_both_hold_the_lock(bench: Bench) -> None:
    bench.launch(
        """
        import torch, torch.distributed as dist
        dist.init_process_group("gloo")
        total = torch.tensor(float(dist.get_rank() + 1))
        dist.all_reduce(total)
        if dist.get_rank() == 0:
            say(int(total), detail=f"{dist.get_world_size()} ranks, {os.environ['LOCAL_WORLD_SIZE']} here")
        dist.destroy_process_group()
        """,
        num_processes=2,
    )
    assert [(progress.done, progress.detail) for progress in bench.heard] == [(3, "2 ranks, 2 here")]


def test_one_failed_rank_ends_the_others(bench: Bench) -> None:
    body = "if os.environ['RANK'] == '1':\n    time.sleep(1)\n    sys.exit(7)\n" + WAIT
    with pytest.raises(WorkerError, match="exit code 7"):
        bench.launch(body, num_processes=2)
    assert gone(bench.wait_for("terminated"))


def test_warnings_of_the_worker_are_logged_here(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="sana")
    bench.launch("for i in range(50): print('12:00 INFO x: step', i)\nprint('12:00 WARNING x: slow disk')")
    assert "12:00 WARNING x: slow disk" in caplog.text
    assert caplog.text.count("step") <= 1


def test_a_workers_own_message_is_said_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """It ends up in the log as well, but is raised, not forwarded."""
    caplog.set_level("INFO", logger="sana")
    body = """
        import sana.runtime.job as job_module
        from sana.errors import SanaError
        def body(job):
            raise SanaError("clip 7 is damaged\\nmend it")
        job_module.read_job = lambda path, kind: None
        job_module.run_worker(body, None)
    """
    with pytest.raises(SanaError, match="clip 7 is damaged\nmend it"):
        bench.launch(body)
    assert "clip 7 is damaged" in bench.log()
    warned = [record.getMessage() for record in caplog.records if record.levelname != "INFO"]
    assert not [text for text in warned if "damaged" in text]
