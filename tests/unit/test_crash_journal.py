"""Journals: what a process had open when it died, and who is to blame."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from sana.config.load import load_config
from sana.context import Context
from sana.runtime.crash_journal import CrashJournal, Quarantine, open_at_crash
from sana.runtime.job import rank_journal
from sana.runtime.launcher import WorkerKilledError
from sana.runtime.specs import CrashHistory
from sana.runtime.worker import restart_on_crash
from sana.store import open_store
from tests.downloads import DEMO

pytestmark = pytest.mark.timeout(60)


def test_what_a_killed_process_had_open_is_left(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from sana.runtime.crash_journal import CrashJournal\n"
        "journal = CrashJournal(Path(sys.argv[1]))\n"
        "with journal.open('first'): pass\n"
        "with journal.open('second'), journal.open('third \\u732b'):\n"
        "    with journal.open('fourth'): pass\n"
        "    os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    path = tmp_path / "crash_journals" / "one"
    died = subprocess.run([sys.executable, "-c", code, str(path)], check=False, preexec_fn=_no_core)
    assert died.returncode == -signal.SIGSEGV
    assert open_at_crash(path) == ["second", "third \u732b"]
    CrashJournal(path).close()
    assert open_at_crash(path) == [] == open_at_crash(tmp_path / "never")


def _no_core() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def test_many_threads_share_a_journal_that_does_not_grow(tmp_path: Path) -> None:
    journal = CrashJournal(tmp_path / "journal")
    barrier = threading.Barrier(8)

    def work(number: int) -> None:
        for round_ in range(50):
            with journal.open(f"{number}-{round_}"):
                if round_ == 49:
                    barrier.wait()
                    seen.append(open_at_crash(tmp_path / "journal"))
                    barrier.wait()

    seen: list[list[str]] = []
    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert seen == [sorted(f"{number}-49" for number in range(8))] * 8
    assert open_at_crash(tmp_path / "journal") == [] and os.path.getsize(tmp_path / "journal") <= 8 * 256
    with pytest.raises(ValueError, match="1 to 255 bytes"), journal.open("x" * 256):
        pass


def test_who_was_open_in_two_deaths_is_guilty() -> None:
    quarantined = Quarantine().after(["b", "a", "c"])
    assert (quarantined.to_isolate, quarantined.to_reject) == (["a", "b", "c"], [])
    quarantined = quarantined.after(["b"])
    assert (quarantined.to_isolate, quarantined.to_reject) == (["a", "c"], ["b"])
    assert Quarantine(dict(quarantined.num_crashes)) == quarantined


def test_a_worker_that_dies_before_it_opens_anything_is_not_blamed_on_what_another_left(tmp_path: Path) -> None:
    context = Context(load_config(DEMO), open_store(str(tmp_path / "root")), tmp_path)
    told = []
    left = ExitStack()

    def die(crashes: CrashHistory) -> None:
        told.append(crashes.num_crashes)
        if len(told) == 1:
            left.enter_context(CrashJournal(rank_journal(Path(crashes.journal), 0)).open("film"))
        error = WorkerKilledError("killed")
        error.ranks = (0,)
        raise error

    with left, pytest.raises(WorkerKilledError):
        restart_on_crash(context, "probe", die)
    assert told == [{}, {"film": 1}]
    assert not list((tmp_path / "crash_journals").iterdir())
