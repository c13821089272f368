"""The live view of one root: what is read of storage, kept between readings, and made into pages."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sana.artifact import Artifact, FileInfo
from sana.errors import SanaError
from sana.report import html
from sana.report.live import compare_page, overview, runs_page, training_page
from sana.report.live.committed import Committed, TrainingEntry, read_artifact
from sana.report.live.live_page import NOTICE, LivePage, Topic
from sana.report.live.media import ValidationCache
from sana.report.live.pages import About
from sana.report.live.run_index import LIVE, RunIndex
from sana.report.live.trainings import UNFINISHED, merged
from sana.runs.curve_cache import CurveCache
from sana.runs.listing import Run, read_run
from sana.runs.newest_eval import NewestEvals
from sana.store import Store
from sana.store_errors import StoreError
from sana.training.checkpoints.checkpoint import training_folders
from sana.training.validation import record as validations

_RUN_ID = re.compile(r"[0-9a-f-]{8,40}", re.ASCII)
_NAME = re.compile(r"[a-z0-9_]{1,40}(-[A-Za-z0-9._]{1,80})?", re.ASCII)  # of a stage, fingerprint or trajectory


def _is_to_be_evaluated(row: TrainingEntry) -> bool:
    """Whether the newest eval loss is one that was measured while it trained."""
    return not row.fingerprint or (row.evaluated is None and row.state in LIVE)


class LiveRoot:
    """A root as the reader's thread sees it; files may be looked up from any thread."""

    def __init__(self, store: Store, about: About) -> None:
        self.store, self.about = store, about
        self._committed, self._runs = Committed(store), RunIndex(store)
        self._metrics, self._drawn = CurveCache(store), training_page.DrawnCurves()
        self._evals = NewestEvals(store)
        self._videos = ValidationCache(store)
        self._rows: list[TrainingEntry] = []
        self._was_there = False  # the root's folder

    def refresh(self) -> None:
        """Look at storage again. Raises SanaError or OSError: it does not answer."""
        self._check_root()
        self._committed.refresh()
        self._runs.refresh()
        finished = {row.fingerprint for row in self._committed.trainings}
        begun = [name for name in training_folders(self.store) if name not in finished]
        rows = merged(self._committed.trainings, begun, self._runs.rows)
        self._evals.refresh({row.trajectory: row.created_at for row in rows if _is_to_be_evaluated(row)})
        self._rows = [row for row in map(self._with_progress, rows) if row is not None]

    def _check_root(self) -> None:
        """Raises StoreError: the folder was there, and is gone: it is not an empty root."""
        if self.store.is_local:
            is_there = Path(self.store.root).is_dir()
            if self._was_there and not is_there:
                raise StoreError(f"the folder {self.store.root} is gone: was it moved, or its disk taken away?")
            self._was_there = self._was_there or is_there

    def _with_progress(self, row: TrainingEntry) -> TrainingEntry | None:
        """Return a training that is not evaluated yet with its newest eval loss; None: nothing of it is left.

        A folder without a run and a checkpoint is that of a model whose run was killed before it was committed.
        """
        if not _is_to_be_evaluated(row):
            return row
        step = self._evals.step_of(row.trajectory)
        if step is None and row.state == UNFINISHED:
            return None
        told = (run.status.rows for run in self._runs.live.values() if run.trajectory == row.trajectory and run.status)
        measured = self._evals.of(row.trajectory, next(told, ()))
        return replace(row, so_far=measured, step=max(row.step, step or 0))

    def page(self, topic: Topic) -> LivePage:
        """Make a page of what was read. Raises LookupError: there is nothing of that name."""
        title, parts = self._parts(topic)
        return LivePage(title, {NOTICE: "", **parts})

    def notice(self, trouble: str) -> str:
        """Return the markup that says why what is shown may be old."""
        return html.fragment("live/notice.html.j2", trouble=trouble)

    def _parts(self, topic: Topic) -> tuple[str, dict[str, str]]:
        makers: dict[str, Callable[[Topic], tuple[str, dict[str, str]]]] = {
            "overview": lambda topic: overview.parts(self._rows, self._runs, topic),
            "runs": lambda topic: runs_page.list_parts(self._runs, topic),
            "run": lambda topic: runs_page.run_parts(self._runs, topic),
            "compare": lambda topic: compare_page.parts(self._rows, topic),
            "training": lambda topic: training_page.parts(self._sources(), topic),
        }
        if topic.kind not in makers:
            raise LookupError("there is no such page")
        return makers[topic.kind](topic)

    def _sources(self) -> training_page.Sources:
        return training_page.Sources(self._committed, self._rows, self._runs, self._metrics, self._drawn, self._videos)

    def run(self, run_id: str) -> Run:
        """Return the record of a run; from any thread. Raises LookupError: there is none."""
        found = read_run(self.store, run_id) if _RUN_ID.fullmatch(run_id) else None
        if found is None:
            raise LookupError(f"there is no run {run_id} under this root")
        return found

    def artifact_file(self, stage: str, fingerprint: str, name: str) -> FileInfo:
        """Return a file of an artifact by its name there. Raises LookupError: there is none."""
        return _file_of(self._artifact(stage, fingerprint), name)

    def validation_file(self, trajectory: str, step: str, settings: str, name: str) -> FileInfo:
        """Return a file of a validation by its name in the record. Raises LookupError: there is none."""
        if not (step.isdecimal() and len(step) < 12 and _NAME.fullmatch(trajectory) and _NAME.fullmatch(settings)):
            raise LookupError("there is no such validation")
        folder = validations.folder_of(trajectory, int(step), settings)
        try:
            record = validations.read(self.store, f"{folder}/{validations.RESULT}")
        except SanaError as error:
            raise LookupError(str(error)) from error
        if name not in record.files:
            raise LookupError(f"that validation has no file {name}")
        return record.files[name]

    def _artifact(self, stage: str, fingerprint: str) -> Artifact:
        if not (_NAME.fullmatch(stage) and _NAME.fullmatch(fingerprint)):
            raise LookupError("there is no such artifact")
        return read_artifact(self.store, stage, fingerprint)


def _file_of(artifact: Artifact, name: str) -> FileInfo:
    if name not in artifact.files:
        raise LookupError(f"{artifact.key} has no file {name}")
    return artifact.files[name]
