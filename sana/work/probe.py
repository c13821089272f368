"""Worker: open the videos that the pool does not know, in threads, and commit what they are part by part.

A process of its own, because a damaged file can kill the process that opens it: the stage starts another then.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sana.data.journal import Journal, Suspects
from sana.data.manifest import lacking, read_table, table_of
from sana.data.pool import Pool
from sana.data.probe import probe_video
from sana.data.schemas import PROBES, VIDEO_FACTS, Reason
from sana.data.source import Source, fetched, open_sources
from sana.data.video import ClipRefused
from sana.progress import Progress
from sana.store_errors import StoreError
from sana.work.job import Job, run_worker

REPORT_S = 0.5
_BLANK: Mapping[str, Any] = {"string": "", "bool": False}
_NOTHING = {field.name: _BLANK.get(str(field.type), 0) for field in VIDEO_FACTS}
Row = Mapping[str, Any]


def probe(job: Job) -> None:
    """Open each content once, in the order of the digests; first, one by one, what was open when a worker died.

    Raises:
        StoreError: a file cannot be read, which is the disk's fault or the network's.
    """
    resources = job.config.probe.resources
    pool = Pool(job.open_store(), "probe", job.spec["pool"].rpartition("/")[2], schema=PROBES, id_column="digest")
    clips = read_table(job.open_store(), job.artifacts["download"], "clips.parquet")
    todo = lacking(clips, pool.rows(), "digest").select(["digest", "dataset", "path"])
    sources = open_sources(job.config, work_dir=job.work_dir)
    suspects, journal = Suspects(job.spec["deaths"]), Journal(Path(job.spec["journal"]))
    report = _reporter(job, todo.num_rows, sources)

    def opened(row: Row) -> Row:
        return {"digest": row["digest"], **_open(row, sources[row["dataset"]], journal)}

    guilty, todo = _split(todo, suspects.guilty)
    alone, todo = _split(todo, suspects.alone)
    if guilty.num_rows:
        pool.commit_part(table_of(report(map(_killer, guilty.to_pylist())), PROBES))
    for row in alone.to_pylist():
        pool.commit_part(table_of(report([opened(row)]), PROBES))
    with ThreadPoolExecutor(resources.num_workers) as threads:
        for start in range(0, todo.num_rows, resources.clips_per_part):
            part = todo.slice(start, resources.clips_per_part).to_pylist()
            pool.commit_part(table_of(report(threads.map(opened, part)), PROBES))


def _open(row: Row, source: Source, journal: Journal) -> Row:
    """Return what the video is, or why it was refused."""
    try:
        with source.open_video(row["path"], digest=row["digest"]) as path, journal.open(row["digest"]):
            return {"reason": "", "detail": "", **vars(probe_video(path))}
    except ClipRefused as refusal:
        return {**_NOTHING, "reason": refusal.reason, "detail": refusal.detail}
    except OSError as error:
        raise StoreError(
            f"probe: {row['path']} of download.datasets[{row['dataset']}] cannot be read ({error}); "
            "see to the disk or the permission, then run again"
        ) from error


def _killer(row: Row) -> Row:
    detail = "the process that opened it was killed by a signal, twice; the second time nothing else was open"
    return {**_NOTHING, "digest": row["digest"], "reason": Reason.KILLED_WORKER.value, "detail": detail}


def _split(todo: pa.Table, digests: Sequence[str]) -> tuple[pa.Table, pa.Table]:
    """Return the rows with these digests, and the others."""
    named = pc.is_in(todo.column("digest"), value_set=pa.array(digests, pa.string()))
    return todo.filter(named), todo.filter(pc.invert(named))


def _reporter(job: Job, total: int, sources: Mapping[str, Source]) -> Callable[[Iterable[Row]], list[Row]]:
    """Return a function that passes rows on and reports, now and then, how many came."""
    done, refused, reported_s = 0, 0, 0.0

    def report(rows: Iterable[Row]) -> list[Row]:
        nonlocal done, refused, reported_s
        passed = []
        for row in rows:
            passed.append(row)
            done, refused = done + 1, refused + bool(row["reason"])
            if done == total or time.monotonic() - reported_s > REPORT_S:
                detail = ", ".join(part for part in (f"{refused} refused", fetched(sources)) if part)
                job.report(Progress(done, total, "videos", detail))
                reported_s = time.monotonic()
        return passed

    return report


if __name__ == "__main__":
    run_worker(probe)
