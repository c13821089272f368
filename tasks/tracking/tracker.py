"""What MLflow shows: one run per pipeline config, one per stage artifact, found again by any later run.

An index that can be rebuilt from the artifacts: no call here fails a stage or keeps it waiting for long. Runs are
addressed by id, never ambient. The only file that imports mlflow.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import requests
from google.protobuf.json_format import ParseError
from mlflow.entities import Param, Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from sana.artifact import Artifact, Recipe
from sana.config.pipeline import Config
from sana.store import Store
from sana.store_errors import StoreError
from sana.wording import without_password
from tasks.tracking import values
from tasks.tracking.calls import as_tags, note_error
from tasks.tracking.dead_runs import end_dead_runs, process_tags
from tasks.tracking.run_ids import RunIds
from tasks.tracking.stage_run import StageRun
from tasks.tracking.trouble import TrackerAwayError, in_words

TRAJECTORY = "sana.trajectory"  # of the training whose curves a run has
_ADDRESS = (ImportError, ValueError)  # it is no address, or needs a package that is not here
_KIND = "mlflow.experimentKind"  # by it the page of an experiment opens with the runs of those who train models
_TRAINS = "custom_model_development"
TROUBLE = (MlflowException, requests.RequestException, ParseError, SQLAlchemyError, OSError, StoreError, *_ADDRESS)
PAUSE_S = 60.0  # a tracker that failed is left alone for so long
log = logging.getLogger(__name__)
T = TypeVar("T")


class Tracker:
    """One pipeline run in MLflow: a context manager that sets its status at the end.

    `key` names the pipeline's config: equal keys continue the same run. `facts` may differ from run to run and
    become tags. `quiet`: trouble is no warning, as another tracker will tell of it.
    """

    def __init__(
        self, config: Config, store: Store, key: str, facts: Mapping[str, str], *, quiet: bool = False
    ) -> None:
        # the defaults of MLflow keep a caller waiting for 245 s when a server is down
        for name, value in {"MAX_RETRIES": "1", "BACKOFF_FACTOR": "1", "TIMEOUT": "10"}.items():
            os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
        for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.utils.databricks_utils", "urllib3.connectionpool"):
            logging.getLogger(noisy).setLevel(logging.ERROR)  # one warning of ours says it all
        self.config, self.store, self.key = config, store, key
        self.facts = {name: value for name, value in facts.items() if value} | process_tags(store)
        work_dir = Path(config.work_dir).absolute()
        self.uri = values.tracking_uri(config)
        self.run_id: str | None = None
        self.title = ""  # of the config, in runs' names
        self._ids = RunIds(work_dir / "mlflow-runs.json", without_password(self.uri))
        self._artifacts = (work_dir / "mlflow-artifacts").as_uri() if self.uri.startswith("sqlite:") else None
        self._client: MlflowClient | None = None
        self._experiment_id = ""
        self._lineage: dict[str, dict[str, object]] = {}
        self._is_settled = True  # whether the pipeline's run is surely that of this training
        self._has_looked = False  # for runs whose process is gone
        self._before: tuple[str, int | None] = (
            "FINISHED",
            None,
        )  # status and end of the pipeline's run before this one
        self._silent_until = 0.0
        self._warned = quiet

    def __enter__(self) -> Self:
        self._pipeline_run()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.settle()
        run_id = self.run_id
        if run_id:
            self.try_to(lambda client: note_error(client, run_id, error))  # a stage's run may not have begun
            self.try_to(lambda client: client.set_terminated(run_id, values.status_of(error)))

    def stage(self, recipe: Recipe, inputs: Mapping[str, Artifact]) -> StageRun:
        """Return the run of the artifact that this recipe makes; enter it when the stage does work."""
        return StageRun(self, recipe, inputs)

    def try_to(self, call: Callable[[MlflowClient], T]) -> T | None:
        """Make a call; None when the tracker does not take it, with one warning, and no other call for a minute."""
        if time.monotonic() < self._silent_until:
            return None
        try:
            return call(self._connected())
        except TROUBLE as error:
            self._silent_until = time.monotonic() + PAUSE_S
            if not self._warned:
                where = without_password(self.uri)
                why = in_words(error, self.uri)
                log.warning("MLflow at %s does not work: %s. The run continues; a later one records it", where, why)
            self._warned = True
            return None

    def ask(self, call: Callable[[MlflowClient], T]) -> T:
        """Make a call that a user asked for.

        Raises:
            TrackerAwayError: MLflow does not take it; says why, and what to do.
        """
        try:
            return call(self._connected())
        except TROUBLE as error:
            where = without_password(self.uri)
            raise TrackerAwayError(f"MLflow at {where} does not work: {in_words(error, self.uri)}") from error

    def find_run(self, stage: str, fingerprint: str) -> str | None:
        """Return the id of the run of an artifact, or None where MLflow has none. Raises as `ask`."""
        tags = {"sana.stage": stage, "sana.fingerprint": fingerprint}
        run = self.ask(lambda client: self._find(client, tags))
        return run.info.run_id if run else None

    def find_or_create(self, stage: str, fingerprint: str, params: Mapping[str, object]) -> str | None:
        """Return the id of the run that is tagged so; params that it lacks are logged, once for all."""
        tags = {"sana.stage": stage, "sana.fingerprint": fingerprint}
        name = values.stage_name(stage, fingerprint, title=self.title)
        parent = {"mlflow.parentRunId": self.run_id} if self.run_id else {}

        def call(client: MlflowClient) -> str:
            if not self._has_looked:
                self._has_looked = True
                end_dead_runs(client, self.store)
            run = self._find(client, tags) or client.create_run(
                self._experiment_id, run_name=name, tags={**tags, **parent}
            )
            self._ids.remember(tags, run.info.run_id)
            missing = [Param(k, v) for k, v in values.flat(params).items() if k not in run.data.params]
            for start in range(0, len(missing), 100):
                client.log_batch(run.info.run_id, params=missing[start : start + 100])
            return run.info.run_id

        return self.try_to(call)

    def link(self, artifact: Artifact, run_id: str, state: str) -> None:
        """Note on the pipeline's run which stage run its artifact belongs to, reused ones too."""
        self._lineage[artifact.stage] = {**values.lineage(artifact, self.store), "run_id": run_id, "state": state}
        parent = self._pipeline_run()
        if parent and self._is_settled:
            self.try_to(lambda client: client.set_tag(parent, f"sana.run.{artifact.stage}", run_id))
            self.try_to(lambda client: client.log_dict(parent, self._lineage, "lineage.json"))

    def settle(self) -> None:
        """Write the lineage that was held back until it was known whose run this is."""
        if self._is_settled or (parent := self.run_id) is None:
            return
        self._is_settled = True
        runs = {f"sana.run.{stage}": str(found["run_id"]) for stage, found in self._lineage.items()}
        self.try_to(lambda client: client.log_batch(parent, tags=as_tags(runs)))
        self.try_to(lambda client: client.log_dict(parent, self._lineage, "lineage.json"))

    def follow(self, trajectory: str) -> str | None:
        """Let the pipeline's run be that of this training, whose curves begin anew where the data has changed.

        Returns the id of the run that was the pipeline's until now, if another one has taken its place.
        """
        left = self.try_to(lambda client: self._follow(client, trajectory))
        self.settle()
        return left

    def _follow(self, client: MlflowClient, trajectory: str) -> str | None:
        if (old := self.run_id) is None:
            return None
        before = _trajectory_of(client, client.get_run(old).data.tags)
        if before in ("", trajectory):
            client.set_tag(old, TRAJECTORY, trajectory)
            return None
        # found by its key is the run of the newest training; those before have the key with their own trajectory
        own = {"sana.stage": "pipeline", "sana.fingerprint": self.key}
        aside = self._find(client, {**own, "sana.fingerprint": f"{self.key}-{trajectory}"})
        client.log_batch(old, tags=as_tags({TRAJECTORY: before, "sana.fingerprint": f"{self.key}-{before}"}))
        if aside is not None:  # the data is again what it was
            client.set_tag(aside.info.run_id, "sana.fingerprint", self.key)
            self._ids.remember(own, aside.info.run_id)
        status, ended_ms = self._before
        client.set_terminated(old, status, ended_ms)
        self.run_id = None
        if (new := self._pipeline_run()) is None:
            return None
        client.log_batch(new, tags=as_tags({TRAJECTORY: trajectory, "sana.run_before": old}))
        client.set_tag(old, "sana.run_after", new)
        return old

    def _pipeline_run(self) -> str | None:
        """Return the id of the pipeline's run; made by the first call that MLflow answers."""
        if self.run_id is None:
            hashed = {name: section.hashed() for name, section in values.sections(self.config).items()}
            run_id = self.find_or_create("pipeline", self.key, values.params(self.config, hashed))
            if run_id and self.try_to(lambda client: self._describe(client, run_id)):
                self.run_id = run_id
        return self.run_id

    def _describe(self, client: MlflowClient, run_id: str) -> bool:
        run = client.get_run(run_id)
        started_s = run.info.start_time / 1000
        self._is_settled = not _trajectory_of(client, run.data.tags)
        if run.info.status in ("FINISHED", "FAILED", "KILLED"):
            self._before = run.info.status, run.info.end_time
        template = self.config.tracking.run_name
        name = values.run_name(self.config, template, title=self.title, key=self.key, started_s=started_s)
        client.update_run(run_id, status="RUNNING", name=name)
        client.log_batch(run_id, tags=as_tags(self.facts))
        client.log_text(run_id, values.resolved_yaml(self.config), "config/resolved.yaml")
        return True

    def _find(self, client: MlflowClient, tags: Mapping[str, str]) -> Run | None:
        known = self._ids.get(tags)
        if known is not None:
            try:
                run = client.get_run(known)
                has_them = all(run.data.tags.get(name) == value for name, value in tags.items())
                if run.info.lifecycle_stage == "active" and has_them:
                    return run
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        runs = client.search_runs([self._experiment_id], query, max_results=1, order_by=["attributes.start_time"])
        return runs[0] if runs else None

    def _connected(self) -> MlflowClient:
        if self._client is None:
            client = MlflowClient(tracking_uri=self.uri)
            name = self.config.tracking.experiment
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                try:
                    self._experiment_id = client.create_experiment(name, self._artifacts, tags={_KIND: _TRAINS})
                except MlflowException as error:
                    if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another run was first
                        raise
                    return self._connected()
            elif not experiment.experiment_id:
                raise ValueError("no experiment id")  # some other service's JSON
            else:
                self._experiment_id = experiment.experiment_id
                if "infer" in experiment.tags.get(
                    _KIND, "inferred"
                ):  # nobody chose one; MLflow's page may have guessed
                    client.set_experiment_tag(self._experiment_id, _KIND, _TRAINS)
            self._client = client
        return self._client


def _trajectory_of(client: MlflowClient, tags: Mapping[str, str]) -> str:
    """Return the training whose curves a pipeline's run has; "": none yet. Before 0.2.0 its training's run said so."""
    if TRAJECTORY in tags or "sana.run.train" not in tags:
        return tags.get(TRAJECTORY, "")
    return str(client.get_run(tags["sana.run.train"]).data.tags.get(TRAJECTORY, ""))
