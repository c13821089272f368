"""Worker: probe the videos that are missing in the pool, in threads, and commit their facts part by part.

A process of its own, because a damaged file can crash the process that opens it: the stage then starts another.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sana.arrow import anti_join, table_of
from sana.data.schemas import PROBES, VIDEO_FACTS, Reason
from sana.data.sources.source import Source, fetch_summary, open_sources
from sana.data.tables import STILL, probed_files, read_table
from sana.data.video.probe import probe_video
from sana.data.video.still import probe_still
from sana.data.video.video import ClipRejected
from sana.progress import Progress
from sana.runtime.crash_journal import CrashJournal, Quarantine
from sana.runtime.job import Job, run_worker
from sana.runtime.pool import Pool
from sana.runtime.specs import ProbeSpec
from sana.runtime.threads import in_threads
from sana.store_errors import StoreError

REPORT_S = 0.5
_BLANK: Mapping[str, Any] = {"string": "", "bool": False}
_NO_FACTS = {field.name: _BLANK.get(str(field.type), 0) for field in VIDEO_FACTS}
Row = Mapping[str, Any]


def probe(job: Job[ProbeSpec]) -> None:
    """Probe each distinct file once, in the order of digests; first, one by one, those open when a worker crashed.

    Raises:
        StoreError: a file cannot be read, because of the disk or the network.
    """
    resources = job.config.probe.resources
    spec = job.spec
    pool = Pool(job.open_store(), spec.pool.stage, spec.pool.key, schema=PROBES, id_column="digest")
    clips = read_table(job.open_store(), spec.download, "clips.parquet")
    todo = anti_join(probed_files(clips), pool.rows(), "digest").select(["digest", "dataset", "path"])
    sources = open_sources(job.config, work_dir=job.work_dir)
    quarantined, journal = Quarantine(spec.crashes.num_crashes), CrashJournal(Path(spec.crashes.journal))
    report = _Reporter(job, todo.num_rows, sources)

    def probe_row(row: Row) -> Row:
        return {"digest": row["digest"], **_probe_or_reject(row, sources[row["dataset"]], journal)}

    to_reject, todo = _split_by_digest(todo, quarantined.to_reject)
    to_isolate, todo = _split_by_digest(todo, quarantined.to_isolate)
    if to_reject.num_rows:
        pool.commit_part(table_of(report(map(_crash_rejection, to_reject.to_pylist())), PROBES))
    for row in to_isolate.to_pylist():
        pool.commit_part(table_of(report([probe_row(row)]), PROBES))
    for start in range(0, todo.num_rows, resources.clips_per_part):
        part = todo.slice(start, resources.clips_per_part).to_pylist()
        rows = in_threads(
            probe_row, part, num_threads=resources.num_workers, num_ahead=len(part), while_waiting=report.say_fetched
        )
        pool.commit_part(table_of(report(rows), PROBES))


def _probe_or_reject(row: Row, source: Source, journal: CrashJournal) -> Row:
    """Return the facts of a video, or the reason for its rejection."""
    try:
        probe_file = probe_still if row["digest"].startswith(STILL) else probe_video
        digest = row["digest"].removeprefix(STILL)
        with source.open_video(row["path"], digest=digest) as path, journal.open(row["digest"]):
            return {"reason": "", "detail": "", **vars(probe_file(path))}
    except ClipRejected as rejection:
        return {**_NO_FACTS, "reason": rejection.reason, "detail": rejection.detail}
    except OSError as error:
        raise StoreError(
            f"probe: {row['path']} of download.datasets[{row['dataset']}] cannot be read ({error}); "
            "see to the disk or the permission, then run again"
        ) from error


def _crash_rejection(row: Row) -> Row:
    """Return the rejection of a file that crashes the process which opens it."""
    detail = "the process that opened it was killed by a signal, twice; the second time nothing else was open"
    return {**_NO_FACTS, "digest": row["digest"], "reason": Reason.KILLED_WORKER.value, "detail": detail}


def _split_by_digest(todo: pa.Table, digests: Sequence[str]) -> tuple[pa.Table, pa.Table]:
    """Return the rows with these digests, and the others."""
    matches = pc.is_in(todo.column("digest"), value_set=pa.array(digests, pa.string()))
    return todo.filter(matches), todo.filter(pc.invert(matches))


class _Reporter:
    """Collects rows and reports, every REPORT_S, how many are done and what is being fetched."""

    def __init__(self, job: Job[ProbeSpec], total: int, sources: Mapping[str, Source]) -> None:
        self._job, self._total, self._sources = job, total, sources
        self._done, self._rejected = 0, 0
        self._reported_s, self._fetched = 0.0, ""
        job.report(Progress(0, total, "videos", phase="opening the first videos"))

    def __call__(self, rows: Iterable[Row]) -> list[Row]:
        collected = []
        for row in rows:
            collected.append(row)
            self._done, self._rejected = self._done + 1, self._rejected + bool(row["reason"])
            if self._done == self._total or time.monotonic() - self._reported_s > REPORT_S:
                self._publish(fetch_summary(self._sources))
        return collected

    def say_fetched(self) -> None:
        """Report if more is fetched now: a long video may take minutes."""
        if (now := fetch_summary(self._sources)) != self._fetched:
            self._publish(now)

    def _publish(self, fetched_now: str) -> None:
        detail = ", ".join(part for part in (f"{self._rejected} rejected", fetched_now) if part)
        self._job.report(Progress(self._done, self._total, "videos", detail))
        self._reported_s, self._fetched = time.monotonic(), fetched_now


if __name__ == "__main__":
    run_worker(probe, ProbeSpec)
