"""The run of one stage's artifact in MLflow."""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from mlflow.entities import LoggedModelOutput
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from sana.artifact import Artifact, Recipe
from sana.facts import TrainFacts
from tasks.tracking import datasets, values
from tasks.tracking.calls import LOGGED_MODEL, as_tags, logged_points, note_error, send_points
from tasks.tracking.metrics_shipper import MetricShipper
from tasks.tracking.system_metrics import SystemMetrics

if TYPE_CHECKING:
    from tasks.tracking.tracker import Tracker

_NOT_IN_MODEL_NAMES = str.maketrans(dict.fromkeys("/:.%\"'", "-"))  # which MLflow refuses
DRAIN_S, KILLED_DRAIN_S = 60.0, 2.0  # last metrics of a stage; on a cancel little of Prefect's grace is left


class StageRun:
    """One stage's run in MLflow. Entered, it is RUNNING and takes metrics; left, it has its status."""

    def __init__(self, tracker: "Tracker", recipe: Recipe, inputs: Mapping[str, Artifact]) -> None:
        self._tracker = tracker
        self._recipe = recipe
        self._inputs = inputs
        self._shipper: MetricShipper | None = None
        self._system: SystemMetrics | None = None
        self._id: str | None = None

    def __enter__(self) -> Self:
        run_id = self.run_id()
        if run_id:
            self._tracker.try_to(lambda client: self._start(client, run_id))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = values.status_of(error)
        self._stop_system_metrics()
        self._drain(KILLED_DRAIN_S if status == "KILLED" else DRAIN_S)
        if (run_id := self._id) and error is not None:
            self._tracker.try_to(lambda client: note_error(client, run_id, error))
            self._tracker.try_to(lambda client: client.set_terminated(run_id, status))

    def log_metrics(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Take rows of metrics; never waits. What MLflow has already is not sent again.

        With no tracker nothing is kept here: the artifact holds every step and `finished` sends them.
        """
        if self._id:
            self._ship(self._id, rows)

    def finished(self, artifact: Artifact, state: str) -> None:
        """Record a committed artifact, just made or found; one that is recorded already is only linked."""
        if (run_id := self.run_id()) is None:
            return
        if (run := self._tracker.try_to(lambda client: client.get_run(run_id))) is None:
            return
        if run.data.tags.get("sana.recorded") != str(artifact.created_at):
            rows = self._tracker.try_to(lambda _: values.metric_rows(artifact, self._tracker.store))
            self._ship(run_id, rows or [])
            unsent = self._drain(DRAIN_S)
            self._tracker.try_to(lambda client: self._record(client, run_id, artifact, complete=not unsent))
        if run.info.status != "FINISHED":
            self._tracker.try_to(lambda client: client.set_terminated(run_id, "FINISHED"))
        self._tracker.try_to(lambda client: note_error(client, run_id, None))
        self._tracker.link(artifact, run_id, state)

    def run_id(self) -> str | None:
        """Return the id of this run, made if it is not there; None while MLflow does not answer."""
        if self._id is None:
            recipe = self._recipe
            params = values.params(self._tracker.config, {recipe.stage: recipe.config})[recipe.stage]
            self._id = self._tracker.find_or_create(recipe.stage, recipe.fingerprint, params)
        return self._id

    def _start(self, client: MlflowClient, run_id: str) -> None:
        attempt = int(client.get_run(run_id).data.tags.get("sana.attempt", "0")) + 1
        client.update_run(run_id, status="RUNNING")
        tags = values.attempt_tags(self._tracker.config, self._recipe, attempt)
        client.log_batch(run_id, tags=as_tags({**self._tracker.facts, **tags, "sana.pipeline": self._tracker.key}))
        store = self._tracker.store
        read = [datasets.of_stage(artifact, store, self._recipe.stage) for artifact in self._inputs.values()]
        client.log_inputs(run_id, read)
        if every_s := self._tracker.config.tracking.system_metrics_every:
            started_s = client.get_run(run_id).info.start_time / 1000
            self._system_shipper = MetricShipper(
                logged=set,  # no step is read twice
                send=lambda points: bool(self._tracker.try_to(lambda client: send_points(client, run_id, points))),
            )
            self._system = SystemMetrics(every_s=every_s, started_s=started_s, tell=self._system_shipper.add)

    def _stop_system_metrics(self) -> None:
        if self._system is not None:
            self._system.stop()
            self._system_shipper.close(KILLED_DRAIN_S)
            self._system = None

    def _record(self, client: MlflowClient, run_id: str, artifact: Artifact, *, complete: bool) -> None:
        store = self._tracker.store
        client.log_text(run_id, artifact.to_json(sort_keys=True).decode(), "artifact.json")
        client.log_dict(run_id, values.linked_files(artifact, store), "files.json")
        with tempfile.TemporaryDirectory() as folder:
            values.fetch_small_files(artifact, store, Path(folder))
            client.log_artifacts(run_id, folder)
        tags = values.artifact_tags(artifact, store)
        if (trained := TrainFacts.find(artifact)) is not None:
            self._log_model(client, run_id, artifact, trained)
        if complete:  # last: until then a later run does all this again
            tags["sana.recorded"] = str(artifact.created_at)
        client.log_batch(run_id, tags=as_tags(tags))

    def _log_model(self, client: MlflowClient, run_id: str, artifact: Artifact, trained: TrainFacts) -> None:
        """Show the exported model under Models, by its address: no byte is copied. An older server has no such list."""
        run = client.get_run(run_id)
        if LOGGED_MODEL in run.data.tags:
            return
        uri = self._tracker.store.uri(trained.model)
        tags = {"sana.uri": uri, "sana.fingerprint": artifact.fingerprint, "sana.trajectory": trained.trajectory}
        try:
            name = f"{self._tracker.title or 'model'}-{artifact.fingerprint[:8]}".translate(_NOT_IN_MODEL_NAMES)
            model = client.create_logged_model(
                run.info.experiment_id, name, run_id, tags, params=run.data.params, model_type="sana-video"
            )
            client.finalize_logged_model(model.model_id, "READY")
            client.log_outputs(run_id, [LoggedModelOutput(model.model_id, trained.step)])
            if (parent := self._tracker.run_id) is not None:
                client.log_outputs(parent, [LoggedModelOutput(model.model_id, trained.step)])
        except MlflowException:
            return
        client.set_tag(run_id, LOGGED_MODEL, model.model_id)

    def _ship(self, run_id: str, rows: Iterable[Mapping[str, float | None]]) -> None:
        if self._shipper is None:
            tracker = self._tracker
            self._shipper = MetricShipper(
                logged=lambda: tracker.try_to(lambda client: logged_points(client, run_id)),
                send=lambda points: bool(tracker.try_to(lambda client: send_points(client, run_id, points))),
            )
        self._shipper.add(rows)

    def _drain(self, timeout_s: float) -> int:
        """Send what is left; returns the number of points that MLflow did not take."""
        if self._shipper is None:
            return 0
        unsent = self._shipper.close(timeout_s)
        self._shipper = None
        return unsent
