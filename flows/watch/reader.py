"""Reads one run of a root again and again, in a few small requests each time: who it is, how far, what it measured.

What never changes is read once: starts and ends of runs, committed segments of metrics, artifacts.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from flows.watch.frame import WatchDocument, WatchedAttempt, WatchedEvent
from flows.watch.parts import curves_of, latest_of, said_of, stage_of, step_of
from sana.artifact import Artifact, newest_commit
from sana.comparison.lineage import Lineage
from sana.errors import SanaError
from sana.facts import TrainFacts
from sana.record import DamagedRecordError
from sana.report.live.run_index import shown_stages
from sana.runs.binned import BinnedRows
from sana.runs.curve_cache import CurveCache
from sana.runs.listing import Run, read_run
from sana.runs.naming import DONE, Named, find_named
from sana.runs.records import FOLDER, RunStarted, start_key
from sana.runtime.threads import in_threads
from sana.store import Store
from sana.store_errors import StoreError
from sana.training.checkpoints.checkpoint import newest_checkpoint
from sana.training.validation import record as validations
from sana.wording import age

MAX_RUNS = 200  # that are looked through for the one that is meant, the newest first
MAX_ATTEMPTS = 8  # runs of one config that are told of
CHOOSE_EVERY_S = 15.0  # how often the list of runs is read
SEGMENTS_EVERY_S = 20.0  # how often the newest checkpoint is looked for
_UNREADABLE = "\0"  # no config is called so
_SAMPLE_FILE = "contact_sheet.png"


@dataclass(frozen=True)
class Wanted:
    """Which run is meant: of a config by its `title`, by a `name` (of a run or training), or the newest."""

    title: str = ""
    name: str = ""

    def __str__(self) -> str:
        return f"a run of {self.title}" if self.title else f"a run {self.name}" if self.name else "a run"


@dataclass
class RunReader:
    """What is known of a root's runs so far. Called from one thread."""

    store: Store
    wanted: Wanted
    _titles: dict[str, str] = field(default_factory=dict)  # by run
    _runs: dict[str, Run] = field(default_factory=dict)  # by id: what was read last
    _chosen: str = ""
    _named: Named | None = None  # what `wanted.name` means
    _chose_at: float = float("-inf")  # monotonic, as those below
    _segments_at: float = float("-inf")
    _segments: tuple[str, tuple[str, ...]] = ("", ())  # trajectory, keys of its metrics
    _artifacts: dict[str, Artifact | None] = field(default_factory=dict)
    _sheets: dict[str, str] = field(default_factory=dict)  # of validations' records
    _curves: CurveCache = field(init=False)

    def __post_init__(self) -> None:
        self._curves = CurveCache(self.store)

    def read(self) -> WatchDocument:
        """Return the run as it is now.

        Raises:
            SanaError: nothing is called so, a record is damaged, or storage does not answer.
            OSError: storage does not answer.
        """
        self._choose()
        now = time.time()
        if not self._chosen:
            if self._named is not None and (found := self._unrecorded(self._named, now)) is not None:
                return found
            said = f"for {self.wanted} under {self.store.root}; it shows here once it has work to do"
            return WatchDocument(self.store.root, now, "waiting", said)
        run = self._again(self._chosen)
        if run is None:  # its record was deleted
            self._chosen = ""
            return self.read()
        return self._document(run, now)

    def _choose(self) -> None:
        """Look for a newer run that is meant, now and then."""
        if self._chosen and time.monotonic() - self._chose_at < CHOOSE_EVERY_S:
            return
        self._chose_at = time.monotonic()
        if self.wanted.name and self._named is None:
            self._named = find_named(Lineage(self.store), self.wanted.name)
        if self._named is not None and self._named.run is not None:
            same = [name for name in [self._named.run.run_id] if self._again(name)]
        else:
            names = self.store.list_dirs(FOLDER)[::-1]
            same = [run_id for run_id in self._with_title(names[:MAX_RUNS]) if self._is_meant(run_id)]
        self._chosen = same[0] if same else ""
        for run_id in same[1:MAX_ATTEMPTS]:
            self._again(run_id)  # how it ended is told of the attempts before

    def _with_title(self, names: Sequence[str]) -> list[str]:
        """Return those that are runs of the config that is meant, or all where none is; one small request for each."""
        new = [name for name in names if name not in self._titles]
        for run_id, title in zip(new, in_threads(self._title, new), strict=True):
            if title is not None:  # else it is being written
                self._titles[run_id] = title
        wanted = self.wanted.title
        known = [(name, self._titles.get(name, _UNREADABLE)) for name in names]
        return [name for name, title in known if title != _UNREADABLE and wanted in ("", title)]

    def _title(self, run_id: str) -> str | None:
        key = start_key(run_id)
        try:
            data = self.store.read(key)
        except FileNotFoundError:
            return None
        try:
            return RunStarted.from_json(data, where=self.store.uri(key)).title
        except SanaError:  # damaged, or of another version of this software: the others are shown
            return _UNREADABLE

    def _is_meant(self, run_id: str) -> bool:
        """Whether it is a run of the training that is meant; where none is, any is."""
        named = self._named
        if named is None:
            return True
        run = self._again(run_id)
        stage = run.status.stages.get(TrainFacts.STAGE) if run and run.status else None
        if named.trained is not None and stage is not None and stage.state in DONE:
            return stage.fingerprint == named.trained.fingerprint
        return run is not None and bool(run.trajectory) and run.trajectory == named.trajectory

    def _again(self, run_id: str) -> Run | None:
        """Read a run; one that has ended is not read again."""
        known = self._runs.get(run_id)
        if known is not None and known.ended is not None:
            return known
        found = read_run(self.store, run_id)
        if found is None:
            self._runs.pop(run_id, None)
            return None
        self._runs[run_id] = found
        return found

    def _document(self, run: Run, now: float) -> WatchDocument:
        attempts = self._attempts(run)
        state, status = run.state(now), run.status
        trajectory = next((one.trajectory for one in attempts if one.trajectory), "")
        rows = self._rows(trajectory, run, attempts) if trajectory else BinnedRows()
        live = [row for one in attempts[:1] if one.status for row in one.status.rows]
        started = run.started
        age_s = max(now - status.updated_at, 0.0) if status else 0.0
        at = now if state == "running" else run.heard_at  # nothing was done since
        stages = tuple(stage_of(name, one, at, age_s) for name, one in shown_stages(run, now).items())
        return WatchDocument(
            root=self.store.root,
            read_at=now,
            state=state,
            said=said_of(run, state, stages, now),
            run_id=run.run_id,
            title=started.title,
            host=started.host,
            pid=started.process.pid,
            started_at=started.started_at,
            heard_at=run.heard_at,
            ended_at=run.ended.ended_at if run.ended else None,
            error=run.ended.error if run.ended and state == "failed" else "",
            attempts=tuple(WatchedAttempt(one.run_id, one.state(now), step_of(one)) for one in attempts),
            stages=stages,
            trajectory=trajectory,
            latest=latest_of(rows, live),
            curves=curves_of(rows),
            events=tuple(
                WatchedEvent(event.at, event.stage, event.text, self.store.uri(event.key) if event.key else "")
                for event in (status.events if status else ())
            ),
            sample=self._sample(run),
            links=dict(status.links) if status else {},
        )

    def _unrecorded(self, named: Named, now: float) -> WatchDocument | None:
        """Return a training that no run tells of: of an earlier version, or copied to this root."""
        artifact = named.trained or self._artifact(TrainFacts.STAGE, named.trajectory)
        if artifact is None:
            checkpoint = newest_checkpoint(self.store, named.trajectory)
            if checkpoint is None:
                return None
            trajectory, step, at = named.trajectory, checkpoint.step, checkpoint.created_at
            segments, said = tuple(one.key for one in checkpoint.segments), "its newest checkpoint is of"
        else:
            facts = TrainFacts.of(artifact)
            trajectory, step, at = facts.trajectory, facts.step, artifact.created_at
            segments, said = facts.metrics, "trained to"
        rows = self._curves.rows(trajectory, segments)
        return WatchDocument(
            root=self.store.root,
            read_at=now,
            state="completed" if artifact else "unrecorded",
            said=f"{said} step {step}, {age(now - at)} ago; no run has a record of it here",
            title=f"training {artifact.fingerprint if artifact else trajectory}",
            ended_at=at if artifact else None,
            trajectory=trajectory,
            latest=latest_of(rows, ()),
            curves=curves_of(rows),
        )

    def _attempts(self, run: Run) -> list[Run]:
        """Return the runs of the same config that are known, the newest first, up to this one."""
        same = [
            one
            for one in self._runs.values()
            if one.run_id <= run.run_id
            and (one.started.title == run.started.title or (run.trajectory and one.trajectory == run.trajectory))
        ]
        return sorted(same, key=lambda one: one.run_id, reverse=True)[:MAX_ATTEMPTS]

    def _rows(self, trajectory: str, run: Run, attempts: Sequence[Run]) -> BinnedRows:
        """Return all rows of a training: those that are committed, then the live ones of the newest run."""
        rows = self._curves.rows(trajectory, self._segments_of(trajectory, run))
        live = next((one.status.rows for one in attempts if one.trajectory == trajectory and one.status), ())
        return rows.with_rows(live)

    def _segments_of(self, trajectory: str, run: Run) -> tuple[str, ...]:
        trained = run.status.stages.get("train") if run.status else None
        if trained is not None and trained.state in ("cached", "completed", "reproduced"):
            artifact = self._artifact("train", trained.fingerprint)
            return TrainFacts.of(artifact).metrics if artifact is not None else ()
        if self._segments[0] != trajectory or time.monotonic() - self._segments_at >= SEGMENTS_EVERY_S:
            checkpoint = newest_checkpoint(self.store, trajectory)
            self._segments = (trajectory, tuple(one.key for one in checkpoint.segments) if checkpoint else ())
            self._segments_at = time.monotonic()
        return self._segments[1]

    def _sample(self, run: Run) -> str:
        """Return where the last videos are: those of the sample stage, else those of the last validation."""
        if run.status is None:
            return ""
        stage = run.status.stages.get("sample")
        if stage is not None and stage.num_out is not None:
            made = self._artifact("sample", stage.fingerprint)
            if made is not None and _SAMPLE_FILE in made.files:
                return self.store.uri(made.files[_SAMPLE_FILE].key)
        keys = [event.key for event in run.status.events if event.kind == "validation"]
        results = [key for key in keys if key.endswith(f"/{validations.RESULT}")]
        return self._sheet_of(results[-1]) if results else ""

    def _sheet_of(self, key: str) -> str:
        """Return where a picture of a validation's videos is, else its record; a record is read once."""
        if key not in self._sheets:
            try:
                record = validations.read(self.store, key)
            except DamagedRecordError:
                self._sheets[key] = key
            except StoreError:
                raise
            except SanaError:  # it is there no more
                self._sheets[key] = ""
            else:
                name = next((name for name in record.sheets.values() if name in record.files), "")
                self._sheets[key] = record.files[name].key if name else key
        return self.store.uri(self._sheets[key]) if self._sheets[key] else ""

    def _artifact(self, stage: str, fingerprint: str) -> Artifact | None:
        key = f"{stage}/{fingerprint}"
        if self._artifacts.get(key) is None:
            self._artifacts[key] = newest_commit(self.store, key)
        return self._artifacts[key]
