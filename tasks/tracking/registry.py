"""MLflow's model registry: a version per trained model, and the alias `champion`, which a surely better one takes.

A version is found again by the fingerprint in its tags, so a run that is repeated makes no second one. The registry is
an index as the rest of MLflow is: no bytes are copied to it, and nothing here fails a run.
"""

import fcntl
import hashlib
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from sana.comparison.promotion import Candidate, Decision, Signature, candidate_of, decide, signature_of
from sana.config.pipeline import Config
from sana.errors import SanaError
from sana.facts import TrainFacts
from sana.pipeline.observers import Committed, Event, Observer
from sana.store import Store, open_store
from sana.store_errors import StoreError
from sana.wording import one_line
from tasks.tracking.calls import LOGGED_MODEL
from tasks.tracking.tracker import Tracker

CHAMPION = "champion"
_PREFIX = "sana."
_ATTEMPTS = 5  # to move the alias while others move it
log = logging.getLogger(__name__)


def registered_name(config: Config) -> str:
    """Return the name of the registered model that this config's trainings are versions of."""
    return config.tracking.registered_model or re.sub("[/:]", "-", config.tracking.experiment)


@dataclass(frozen=True)
class Registered:
    """A version, and what was decided of it."""

    name: str
    version: str
    decision: Decision | None  # None: the alias was not considered
    champion: str  # version that has the alias now; "": none, or it was not looked

    def said(self) -> str:
        """Say it in a line."""
        if self.decision is None:
            return f"{self.name} version {self.version}"
        stays = f"version {self.champion} stays" if self.champion else "there is none"
        role = f"is {CHAMPION} now" if self.decision.moves else f"is not {CHAMPION}, {stays}"
        return f"{self.name} version {self.version} {role}: {self.decision.reason}"


class Registry:
    """One registered model of an MLflow server or database. Calls raise what MLflow raises: callers guard them."""

    def __init__(self, client: MlflowClient, name: str, store: Store) -> None:
        self._client, self.name, self._store = client, name, store

    def register(self, candidate: Candidate, run_id: str | None) -> ModelVersion:
        """Return the version of a trained model, made if there is none; its tags say what the model is by now."""
        signature = signature_of(self._store, candidate)
        found = self._versions(signature.fingerprint)
        if not found:
            self._make_model()
            self._create(signature, run_id)
            found = self._versions(signature.fingerprint)
        first, *others = found
        for other in others:  # another machine made one at the same moment
            self._delete(other)
        for key, value in _tags(signature).items():
            if first.tags.get(key) != value:
                self._client.set_model_version_tag(self.name, first.version, key, value)
        self._name_at_model(first, run_id)
        return first

    def _name_at_model(self, version: ModelVersion, run_id: str | None) -> None:
        """Let the page of the trained model name its version, as MLflow's own registration does."""
        model_id = self._client.get_run(run_id).data.tags.get(LOGGED_MODEL) if run_id else None
        if model_id is None:
            return
        mine = {"name": self.name, "version": _number(version)}
        named = json.loads(self._client.get_logged_model(model_id).tags.get(MLFLOW_MODEL_VERSIONS, "[]"))
        if mine not in named:
            self._client.set_logged_model_tags(model_id, {MLFLOW_MODEL_VERSIONS: json.dumps([*named, mine])})

    def version_of(self, fingerprint: str) -> str:
        """Return the version of a trained model; "": it has none."""
        return _number(next(iter(self._versions(fingerprint)), None))

    def champion(self) -> ModelVersion | None:
        """Return the version that has the alias."""
        try:
            return self._client.get_model_version_by_alias(self.name, CHAMPION)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def decide(self, candidate: Candidate) -> tuple[Decision, ModelVersion | None]:
        """Return what would become of the alias, and the version that has it."""
        champion = self.champion()
        if champion is None:
            return decide(candidate, None), None
        try:
            return decide(candidate, self._candidate(champion)), champion
        except (SanaError, StoreError, ValueError) as error:  # ValueError: a root that is no address
            reason = f"the champion, version {champion.version}, cannot be compared with: {one_line(error)}"
            return Decision(moves=False, reason=reason), champion

    def promote(self, candidate: Candidate, run_id: str | None, *, forced: str = "") -> Registered:
        """Move the alias to a trained model if it is surely better, or if it is `forced`, with that reason.

        The decision is kept as tags of its version. Who moves the alias meanwhile is compared with.
        """
        with self._alone():
            version = self.register(candidate, run_id)
            for _ in range(_ATTEMPTS):
                decision, before = self.decide(candidate)
                if forced and not decision.moves:
                    decision = Decision(True, f"forced: {forced} (else: {decision.reason})", decision.difference)
                now = self.champion()
                if _number(now) != _number(before):
                    continue  # another machine moved it meanwhile
                if decision.moves:
                    self._client.set_registered_model_alias(self.name, CHAMPION, version.version)
                    if _number(self.champion()) != str(version.version):
                        continue  # another machine decided at the same moment: it is compared with as well
                break
            else:
                decision = Decision(moves=False, reason="others keep moving the alias; promote again")
            after = self.champion()
            is_kept = _number(after) == str(version.version) and f"{_PREFIX}decision" in version.tags
            if decision.moves or not is_kept:  # else its tags say why it became champion
                self._keep(version, decision, before)
        return Registered(self.name, str(version.version), decision, _number(after))

    def _keep(self, version: ModelVersion, decision: Decision, before: ModelVersion | None) -> None:
        tags = {
            "decision": "champion" if decision.moves else "not moved",
            "decision.reason": decision.reason[:4000],
            "decision.against": _number(before),
            "decision.at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        if decision.difference is not None:
            tags["decision.difference"] = f"{decision.difference.difference:.6g}"
            tags["decision.stderr"] = f"{decision.difference.stderr or 0:.6g}"
        for key, value in tags.items():
            self._client.set_model_version_tag(self.name, version.version, f"{_PREFIX}{key}", value)

    def _candidate(self, version: ModelVersion) -> Candidate:
        """Read what a version is, from our root if it is there too, else from its own.

        Raises:
            SanaError, StoreError: it is gone.
        """
        root, fingerprint = version.tags.get(f"{_PREFIX}root"), version.tags.get(f"{_PREFIX}fingerprint")
        if not root or not fingerprint:
            raise SanaError("it was not made by this software: it has no tags sana.root and sana.fingerprint")
        is_here = root == self._store.root or self._store.exists(f"{TrainFacts.STAGE}/{fingerprint}/artifact.json")
        return candidate_of(self._store if is_here else open_store(root), fingerprint)

    def _versions(self, fingerprint: str) -> list[ModelVersion]:
        """Return the versions of a trained model, the oldest first."""
        found = self._client.search_model_versions(f"tags.`{_PREFIX}fingerprint` = '{fingerprint}'")
        return sorted((one for one in found if one.name == self.name), key=lambda one: int(one.version))

    def _delete(self, version: ModelVersion) -> None:
        try:
            self._client.delete_model_version(self.name, version.version)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # the other machine has deleted it
                raise

    def _make_model(self) -> None:
        try:
            self._client.create_registered_model(self.name, tags={f"{_PREFIX}made_by": "sana"})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _create(self, signature: Signature, run_id: str | None) -> None:
        def create(source: str) -> None:
            self._client.create_model_version(
                self.name,
                source,
                run_id=run_id,
                tags=_tags(signature),
                description=_description(signature),
                await_creation_for=0,
            )

        try:
            create(signature.uri)
        except MlflowException as error:
            # a server takes a local path only inside of the run's own artifacts; the tag `sana.uri` says where it is
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            own = self._client.get_run(run_id).info.artifact_uri if run_id else None
            create(str(own or f"sana://{signature.fingerprint}"))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Decide alone on this machine, whatever the work_dir: two that each beat the champion are compared too."""
        model = f"{self._client.tracking_uri}\0{self.name}"
        name = hashlib.blake2b(model.encode(), digest_size=8).hexdigest()
        path = Path(tempfile.gettempdir(), f"sana-registry-{os.getuid()}-{name}.lock")
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


class RegistryObserver(Observer):
    """Makes the version of what a run trained when the run ends, and considers the alias if the config says so."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._trained: Committed | None = None

    def on_event(self, event: Event) -> None:
        if isinstance(event, Committed) and event.stage == "train":
            self._trained = event

    def on_run_end(self, error: BaseException | None) -> None:
        if self._trained is None or error is not None:
            return
        run_id = self._tracker.stage(self._trained.recipe, self._trained.inputs).run_id()
        found = register(self._tracker, self._trained.artifact.fingerprint, run_id)
        if found is None:
            return
        if found.decision is not None:
            (log.info if found.decision.moves else log.warning)("%s", found.said())
        if (parent := self._tracker.run_id) is not None:
            self._tracker.try_to(lambda client: client.set_tag(parent, "sana.registry", found.said()))


def register(tracker: Tracker, fingerprint: str, run_id: str | None) -> Registered | None:
    """Make the version of a trained model, and consider the alias if `tracking.promote` is set.

    None: MLflow does not answer; a warning was logged.
    """
    config, store = tracker.config, tracker.store

    def call(client: MlflowClient) -> Registered:
        registry = Registry(client, registered_name(config), store)
        candidate = candidate_of(store, fingerprint)
        if config.tracking.promote:
            return registry.promote(candidate, run_id)
        version = registry.register(candidate, run_id)
        return Registered(registry.name, str(version.version), None, "")

    return tracker.try_to(call)


def _number(version: ModelVersion | None) -> str:
    """Return the number of a version as text, which a database gives as a number and a server as text."""
    return "" if version is None else str(version.version)


def _tags(signature: Signature) -> dict[str, str]:
    values: Mapping[str, Any] = {name: value for name, value in signature.to_value().items() if name != "format"}
    return {f"{_PREFIX}{name}": str(value) for name, value in values.items() if value not in (None, "")}


def _description(signature: Signature) -> str:
    loss = "" if signature.eval_loss is None else f", eval loss {signature.eval_loss:.4f}"
    error = "" if signature.eval_stderr is None else f" +- {signature.eval_stderr:.4f}"
    return f"{signature.method} training {signature.fingerprint}, {signature.step} steps{loss}{error}; {signature.uri}"
