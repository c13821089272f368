"""The probe stage: the same rows for any number of threads, parts and crashes; what crashes a worker is rejected."""

import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import av
import psutil
import pytest

from sana.artifact import Artifact
from sana.data.tables import read_table
from sana.runtime.crash_journal import open_at_crash
from tests.pipeline_runs import Place, inline_workers, run_stages
from tests.video_files import make_video

pytestmark = pytest.mark.timeout(120)
KILLER = "killer.mkv"


def long_video(path: Path, *, num_packets: int) -> Path:
    """Write a video that repeats one packet: reading it takes long enough to kill its reader meanwhile."""
    short = make_video(path.with_name("short.mkv"), num_frames=1)
    with av.open(str(short)) as source, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        packet = next(iter(source.demux(video=0)))
        for index in range(num_packets):
            packet.pts = packet.dts = index * 62
            packet.stream = stream
            out.mux(packet)
    short.unlink()
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for number in range(6):
        make_video(folder / f"clip-{number}.mp4", num_frames=5 + number)
    (folder / "broken.mp4").write_bytes(b"not a video\n" * 50)
    shutil.copy(folder / "clip-3.mp4", folder / "again.mp4")
    shutil.copy(folder / "broken.mp4", folder / "broken-again.mp4")
    long_video(folder / KILLER, num_packets=100_000)
    for path in list(folder.iterdir()):
        path.with_suffix(".txt").write_text(f"the video {path.stem}\n")
    return folder


@pytest.fixture
def place(clips: Path, tmp_path: Path) -> Place:
    (tmp_path / "work").mkdir()
    (tmp_path / "clips").symlink_to(clips)
    return Place(tmp_path, Path("no-model"), str(tmp_path / "root"))


# the artifact, the rows by path, (reason, detail) of each rejection by path
Run = tuple[Artifact, dict[str, dict[str, Any]], dict[str, tuple[str, str]]]


def run(place: Place, *overrides: str) -> Run:
    """Run up to probe."""
    context = place.context(f"download.datasets.0.source={place.clips.resolve()}", *overrides)
    artifact = run_stages(context, last="probe")["probe"]
    rows = read_table(context.store, artifact, "clips.parquet").to_pylist()
    rejected = read_table(context.store, artifact, "rejects.parquet").to_pylist()
    return artifact, {r["path"]: r for r in rows}, {r["path"]: (r["reason"], r["detail"]) for r in rejected}


@pytest.fixture(scope="module")
def undisturbed(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One thread, one video a part, in this process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "work").mkdir()
    (folder / "clips").symlink_to(clips)
    place = Place(folder, Path("no-model"), str(folder / "root"))
    with inline_workers():
        return run(place, "probe.resources.num_workers=1", "probe.resources.clips_per_part=1")


def test_threads_and_parts_change_nothing(place: Place, undisturbed: Run) -> None:
    first, rows, rejected = undisturbed
    rejected = dict(rejected)
    with inline_workers():
        many = run(place, "probe.resources.num_workers=8", "probe.resources.clips_per_part=3")
    assert many[0].content == first.content and many[2] == rejected
    assert first.counts.num_in == 10 == len(rows) + len(rejected) and first.counts.extra["opened"] == 8
    duplicates = {"again.mp4", "clip-3.mp4"}
    (kept,), (dropped,) = duplicates & set(rows), duplicates & set(rejected)
    assert rows[kept]["clip_id"] < listed(place)[dropped]["clip_id"]
    assert rejected.pop(dropped) == ("duplicate", f"the same content as demo: {kept}")
    assert {path: reason for path, (reason, _) in rejected.items()} == dict.fromkeys(
        ("broken.mp4", "broken-again.mp4"), "unreadable"
    )


def listed(place: Place) -> dict[str, dict[str, Any]]:
    """The rows of the download stage, by path."""
    context = place.context(f"download.datasets.0.source={place.clips.resolve()}")
    artifact = run_stages(context, last="download")["download"]
    return {row["path"]: row for row in read_table(context.store, artifact, "clips.parquet").to_pylist()}


def test_duplicates_may_be_kept(place: Place) -> None:
    with inline_workers():
        artifact, rows, rejected = run(place, "probe.duplicates=keep")
    assert {"again.mp4", "clip-3.mp4"} < set(rows) and set(rejected) == {"broken.mp4", "broken-again.mp4"}
    assert artifact.counts.extra["opened"] == 8


def is_probe(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):  # or a zombie
        return "sana.workers.probe" in process.cmdline()
    return False


@contextmanager
def killing(place: Place, *, times: int, signum: signal.Signals) -> Iterator[list[int]]:
    """Kill the worker that has the clip KILLER open, `times` times; gives the process ids of those killed."""
    digest = listed(place)[KILLER]["digest"]
    killed: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        handled: set[Path] = set()  # each worker has a crash journal of its own
        while len(killed) < times and not ended.wait(0.001):
            for journal in {*(place.folder / "work/crash_journals").glob("*")} - handled:
                with suppress(FileNotFoundError):  # the worker may end at this moment
                    if digest in open_at_crash(journal):
                        # this process may have other children, such as a server of other tests
                        (worker,) = filter(is_probe, psutil.Process().children())
                        worker.send_signal(signum)
                        killed.append(worker.pid)
                        handled.add(journal)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield killed
    finally:
        ended.set()
        thread.join()


def test_a_clip_that_kills_its_worker_twice_is_rejected_alone(place: Place, undisturbed: Run) -> None:
    with killing(place, times=2, signum=signal.SIGSEGV) as killed:
        artifact, rows, rejected = run(place, "probe.resources.num_workers=4")
    assert len(set(killed)) == 2
    assert rejected[KILLER][0] == "killed_worker"
    assert {path: row for path, row in undisturbed[1].items() if path != KILLER} == rows
    assert artifact.counts.reasons["killed_worker"] == 1 and not list((place.folder / "work/crash_journals").iterdir())


def test_one_crash_rejects_no_clip(place: Place, undisturbed: Run) -> None:
    with killing(place, times=1, signum=signal.SIGKILL) as killed:
        artifact, rows, _ = run(place, "probe.resources.num_workers=4")
    assert len(killed) == 1 and KILLER in rows
    assert artifact.content == undisturbed[0].content
