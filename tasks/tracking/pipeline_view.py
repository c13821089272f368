"""What the pipeline's run shows by itself: curves, results, data sets, a description, and how each attempt ended."""

import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from sana.artifact import Artifact, Recipe
from sana.data.video.larger_copy import write_larger
from sana.data.video.video import ClipRejected
from sana.facts import EvaluateFacts, SampleFacts, TrainFacts
from sana.metrics import (
    EVAL_LOSS_EMA,
    EVAL_LOSS_LIVE,
    GRAD_NORM,
    LEARNING_RATE,
    SAMPLES_PER_S,
    STEP,
    TRAIN_LOSS,
    Row,
)
from sana.stages.train import trajectory_of
from sana.wording import one_line
from tasks.tracking import datasets, markdown_page, values
from tasks.tracking.calls import end_curves, logged_points, note_error, send_points
from tasks.tracking.dead_runs import ATTEMPT, RUNNING
from tasks.tracking.metrics_shipper import MetricShipper
from tasks.tracking.tracker import Tracker

DROPS = frozenset({"result/relative_drop_live", "result/relative_drop_ema"})
CURVES = frozenset({TRAIN_LOSS, EVAL_LOSS_LIVE, EVAL_LOSS_EMA, LEARNING_RATE, GRAD_NORM, SAMPLES_PER_S}) | DROPS
# single numbers, which MLflow draws as bars: these three alone, since runs that are compared differ in them and the
# page of a comparison has metrics only. What else came of a training is a curve from the first step to the last
COUNTS = frozenset({"result/steps", "result/clips_in", "result/clips_rejected"})
NOTE, PARENT = "mlflow.note.content", "mlflow.parentRunId"
_LINE = re.compile(r"\AThe data has changed since: .*\n\n")
VIEW = "view"  # folder of videos that are large enough to see
_MAX_ATTEMPTS = 50  # shown in the description: the last
_REJECTING = ("download", "probe", "filter_captions", "bucket", "encode_latents")
_DRAIN_S, _KILLED_DRAIN_S = 30.0, 2.0


class PipelineView:
    """Fills in the run of the pipeline that the tracker has opened."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._shipper: MetricShipper | None = None
        self._artifacts: dict[str, Artifact] = {}
        self._runs: dict[str, str] = {}
        self._started_s = time.time()
        self._attempt = 0
        self._note_before = ""  # description of the run before this attempt

    def start(self) -> None:
        """Begin an attempt; one before that never said how it ended was killed."""
        self._started_s = time.time()
        self._begin()

    def _begin(self) -> None:
        def begin(client: MlflowClient) -> None:
            if (run_id := self._tracker.run_id) is None:
                return
            tags = client.get_run(run_id).data.tags
            self._note_before, before = tags.get(NOTE, ""), _attempts(tags)
            for number, said in before.items():
                if said.endswith(RUNNING):
                    client.set_tag(run_id, f"{ATTEMPT}{number:04d}", said.replace(RUNNING, "ended without a word"))
            self._attempt = max(before, default=0) + 1
            client.set_tag(run_id, self._tag, self._said(RUNNING))
            note_error(client, run_id, None)

        self._tracker.try_to(begin)
        self.describe()

    def trains(self, recipe: Recipe) -> None:
        """Hear of the training before its curves: that of other data than the run has gets a run of its own."""
        if (left := self._tracker.follow(trajectory_of(recipe))) is not None:
            self._tracker.try_to(lambda client: self._leave(client, left))
            self._begin()
        if "encode_latents" in self._artifacts:
            self._tracker.try_to(self._log_datasets)

    def _leave(self, client: MlflowClient, left: str) -> None:
        """Let a run be as it was before this attempt, with a link to the one that takes its place."""
        client.delete_tag(left, self._tag)
        if (new := self._tracker.run_id) is None:
            return
        link = markdown_page.run_link("the run of the data as it is now", client.get_run(new).info.experiment_id, new)
        client.set_tag(left, NOTE, f"The data has changed since: {link}\n\n{_LINE.sub('', self._note_before)}")
        for run_id in self._runs.values():
            run = client.get_run(run_id)
            if run.data.tags.get(PARENT) == left and run.info.start_time >= self._started_s * 1000:
                client.set_tag(run_id, PARENT, new)  # made by this attempt

    def rows(self, rows: Sequence[Row]) -> None:
        """Take rows of metrics; never waits."""
        if (run_id := self._tracker.run_id) is None:
            return
        if self._shipper is None:
            tracker = self._tracker
            self._shipper = MetricShipper(
                logged=lambda: tracker.try_to(lambda client: logged_points(client, run_id)),
                send=lambda points: bool(tracker.try_to(lambda client: send_points(client, run_id, points))),
            )
        kept = ({name: row[name] for name in (STEP, *CURVES) if name in row} for row in rows)
        self._shipper.add(row for row in kept if len(row) > 1)

    def committed(self, artifact: Artifact, run_id: str | None) -> None:
        """Show what a stage has made, or had made before; `run_id` is that of its own run."""
        self._artifacts[artifact.stage] = artifact
        if run_id is not None:
            self._runs[artifact.stage] = run_id
        store = self._tracker.store
        if TrainFacts.find(artifact):
            found = self._tracker.try_to(lambda _: values.metric_rows(artifact, store))
            self.rows(found or [])
        if (losses := EvaluateFacts.find(artifact)) is not None:
            self._show_losses(losses)
        if SampleFacts.find(artifact) is not None:
            self._tracker.try_to(self._log_samples)
        if artifact.stage in ("train", "evaluate"):  # one point each: what is counted of the data is known by then
            self._tracker.try_to(self._log_results)
            self.describe()

    def end(self, error: BaseException | None) -> None:
        """Say how this attempt ended."""
        if "encode_latents" in self._artifacts and "train" not in self._artifacts:  # it has not come to training
            self._tracker.try_to(self._log_datasets)
        if self._shipper is not None:
            self._shipper.close(_KILLED_DRAIN_S if values.status_of(error) == "KILLED" else _DRAIN_S)
            self._shipper = None
        end = {"FINISHED": "completed", "FAILED": "failed", "KILLED": "was stopped"}[values.status_of(error)]
        end += f" after {time.time() - self._started_s:.0f} s"
        end += f": {one_line(str(error) or type(error).__name__)[:300]}" if error is not None else ""
        if (run_id := self._tracker.run_id) is not None and self._attempt:
            self._tracker.try_to(lambda client: client.set_tag(run_id, self._tag, self._said(end)))
        self.describe()

    def describe(self) -> None:
        """Write the description anew."""

        def write(client: MlflowClient) -> None:
            if (run_id := self._tracker.run_id) is None:
                return
            run = client.get_run(run_id)
            experiment, tags = run.info.experiment_id, run.data.tags
            files = {file.path for file in client.list_artifacts(run_id)}
            pages = {
                name: markdown_page.run_link(label, experiment, run_id, name)
                for name, label in (("run_report.html", "run report"), ("data_report.html", "data report"))
                if name in files
            }
            attempts = {str(number): said for number, said in list(_attempts(tags).items())[-_MAX_ATTEMPTS:]}
            note = markdown_page.page(
                losses=self._losses(),
                numbers=self._results(),
                stages={name: markdown_page.run_link(name, experiment, child) for name, child in self._runs.items()},
                attempts=attempts,
                pages=pages,
                settings=values.chosen(self._tracker.config),
                before=markdown_page.run_link("of other data", experiment, tags["sana.run_before"])
                if "sana.run_before" in tags
                else "",
                prefect_url=tags.get("prefect.flow_run_url", ""),
            )
            client.set_tag(run_id, NOTE, note)

        self._tracker.try_to(write)

    @property
    def _tag(self) -> str:
        return f"{ATTEMPT}{self._attempt:04d}"

    def _said(self, end: str) -> str:
        host = self._tracker.facts.get("host", "")
        at = f"{datetime.fromtimestamp(self._started_s, UTC):%Y-%m-%d %H:%M} UTC"
        return f"{at}{f' on {host}' if host else ''}: {end}"

    def _losses(self) -> EvaluateFacts | None:
        found = self._artifacts.get("evaluate")
        return None if found is None else EvaluateFacts.find(found)

    def _results(self) -> dict[str, float]:
        """Return the numbers by which pipelines are compared, as far as they are known."""
        found: dict[str, float] = {}
        if losses := self._losses():
            found["result/eval_loss_initial"] = losses.weights["initial"].mean
            found |= {f"result/relative_drop_{name}": paired.relative_drop for name, paired in losses.paired.items()}
        if (trained := self._artifacts.get("train")) and (facts := TrainFacts.find(trained)):
            found["result/steps"] = float(facts.step)
        if downloaded := self._artifacts.get("download"):
            found["result/clips_in"] = float(downloaded.counts.num_in)
            rejecting = [self._artifacts[name] for name in _REJECTING if name in self._artifacts]
            found["result/clips_rejected"] = float(sum(one.counts.num_rejected for one in rejecting))
        return found

    def _log_results(self, client: MlflowClient) -> None:
        if (run_id := self._tracker.run_id) is not None:
            known = client.get_run(run_id).data.metrics
            now_ms = int(time.time() * 1000)
            new = {
                name: value for name, value in self._results().items() if name in COUNTS and known.get(name) != value
            }
            client.log_batch(run_id, [Metric(name, value, now_ms, 0) for name, value in new.items()])

    def _show_losses(self, losses: EvaluateFacts) -> None:
        """Let the eval curves begin before the first step and end at the one that was evaluated.

        Here, and the end in the training's own run too, whose curves are those of the trainer.
        """
        row = {STEP: float(losses.step)}
        row |= {f"eval/loss_{name}": found.mean for name, found in losses.weights.items() if name != "initial"}
        trained = set(row) - {STEP}
        drops = {f"result/relative_drop_{name}": paired.relative_drop for name, paired in losses.paired.items()}
        before = dict.fromkeys(trained, losses.weights["initial"].mean) | dict.fromkeys(drops, 0.0)
        self.rows([{STEP: 0.0, **before}, {**row, **drops}])
        if (run_id := self._runs.get("train")) is not None:
            ends = {name: value for name, value in row.items() if name != STEP}
            self._tracker.try_to(lambda client: end_curves(client, run_id, losses.step, ends))

    def _log_datasets(self, client: MlflowClient) -> None:
        if (run_id := self._tracker.run_id) is not None:
            latents = self._artifacts["encode_latents"]
            client.log_inputs(run_id, datasets.of_config(self._tracker.config, latents, self._tracker.store))

    def _log_samples(self, client: MlflowClient) -> None:
        """Keep the contact sheet and videos that are large enough to see: on the pipeline's run and the samples' own.

        Once for each artifact.
        """
        sample = self._artifacts["sample"]
        facts, parent = SampleFacts.of(sample), self._tracker.run_id
        if parent is None or client.get_run(parent).data.tags.get("sana.shown_sample") == sample.fingerprint:
            return
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for file in (*facts.videos.values(), facts.contact_sheet):
                if sample.files[file].num_bytes < values.SMALL_BYTES:
                    _fetch_large(self._tracker, sample.files[file].key, folder / Path(file).name)
            for run_id in {parent, self._runs.get("sample")} - {None}:
                client.log_artifacts(str(run_id), name, VIEW)
        client.set_tag(parent, "sana.shown_sample", sample.fingerprint)


def _fetch_large(tracker: Tracker, key: str, path: Path) -> None:
    """Fetch a file of the store; a video in place of which a larger copy can stand, as that."""
    tracker.store.fetch(key, path)
    if path.suffix != ".mp4":
        return
    larger = path.with_name(f"larger-{path.name}")
    try:
        if write_larger(path, larger):
            larger.replace(path)
    except (ClipRejected, ValueError):  # it is shown as it is
        larger.unlink(missing_ok=True)


def _attempts(tags: Mapping[str, str]) -> dict[int, str]:
    """Return what is said of each attempt, by number, in order."""
    found = {name.removeprefix(ATTEMPT): said for name, said in tags.items() if name.startswith(ATTEMPT)}
    return {int(number): found[number] for number in sorted(found) if number.isdigit()}
