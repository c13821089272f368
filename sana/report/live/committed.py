"""What of a root is committed, read step by step: an artifact that was read once is not read again.

Kept of each training is one short row, so that ten thousand of them fit; whole artifacts are read when they are shown.
"""

import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sana.artifact import Artifact, newest_commit
from sana.comparison.subjects import method_of
from sana.errors import SanaError
from sana.facts import BASELINE, EncodeLatentsFacts, EvaluateFacts, TrainFacts
from sana.runs.newest_eval import EvalSoFar
from sana.store import Store
from sana.store_errors import StoreError
from sana.wording import one_line

_log = logging.getLogger(__name__)
_FACTS = {facts.STAGE: facts for facts in (TrainFacts, EncodeLatentsFacts)}  # those that every page needs
_MAX_SHOWN = 64  # whole artifacts, of the pages that were looked at last
PREFERRED_WEIGHTS = ("ema", "live", BASELINE)


@dataclass(frozen=True)
class EvalRow:
    """The eval loss of one evaluate artifact: of the EMA weights, or of those there are."""

    fingerprint: str
    weights: str
    mean: float
    stderr: float | None
    relative_drop: float | None  # from the weights before training


@dataclass(frozen=True)
class TrainingEntry:
    """One training on a page, kept up as the root grows; `sana runs` reads its rows at once (sana.runs.trainings).

    `fingerprint` is "" while it is unfinished.
    """

    trajectory: str
    fingerprint: str
    weights: str  # digest of its weights, by which its evaluate and sample artifacts name it
    latents: str  # digest of what it was trained on
    method: str
    step: int  # optimizer steps done
    max_steps: int
    created_at: float  # when it was committed, seconds since 1970; 0 while it is unfinished
    seconds: float
    num_bytes: int
    evaluated: EvalRow | None = None
    so_far: EvalSoFar | None = None  # measured while it trains, until it is finished
    title: str = ""  # of its config, where a run says it
    state: str = "completed"
    data: str = ""  # its data sets, with their train samples
    samples: tuple[str, ...] = ()  # fingerprints of its sample artifacts, the newest last

    @property
    def loss(self) -> float | None:
        """Its eval loss: of evaluate, else the newest one while it trained."""
        measured = self.evaluated or self.so_far
        return measured.mean if measured else None

    @property
    def key(self) -> str:
        """What its page is called by."""
        return self.fingerprint or self.trajectory


class Committed:
    """The committed trainings of a root, as of the last `refresh`."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.trainings: Sequence[TrainingEntry] = ()
        self._train: dict[str, TrainingEntry] = {}  # by the key in the history
        self._evaluated: dict[str, tuple[str, EvalRow]] = {}  # the same; digest of the weights
        self._sampled: dict[str, tuple[str, str]] = {}
        self._shown: OrderedDict[str, Artifact] = OrderedDict()
        self._damaged: set[str] = set()  # that were told of
        self._latents: dict[str, tuple[str, str]] = {}  # the same; digest of the train view, and what is in it

    def refresh(self) -> None:
        """Read what was committed since the last time. Raises SanaError or OSError where storage does not answer."""
        for artifact, stamp in self._new("train", self._train):
            self._train[stamp] = _training(artifact)
        for artifact, stamp in self._new("evaluate", self._evaluated):
            if (row := _evaluation(artifact)) is not None:
                self._evaluated[stamp] = (artifact.inputs.get("weights", ""), row)
        for artifact, stamp in self._new("sample", self._sampled):
            self._sampled[stamp] = (artifact.inputs.get("weights", ""), artifact.fingerprint)
        for artifact, stamp in self._new("encode_latents", self._latents):
            facts = EncodeLatentsFacts.of(artifact)
            names = ", ".join(f"{name} ({num:,})" for name, num in facts.train_samples.items())
            self._latents[stamp] = (artifact.content.get("train", ""), names)
        data = dict(self._latents.values())
        evaluated = dict(self._evaluated[stamp] for stamp in sorted(self._evaluated))
        samples: dict[str, list[str]] = {}
        for stamp in sorted(self._sampled):
            weights, fingerprint = self._sampled[stamp]
            samples.setdefault(weights, []).append(fingerprint)
        newest = {self._train[stamp].fingerprint: self._train[stamp] for stamp in sorted(self._train)}
        self.trainings = [
            replace(
                row,
                evaluated=evaluated.get(row.weights),
                data=data.get(row.latents, ""),
                samples=tuple(samples.get(row.weights, ())),
            )
            for row in newest.values()
        ]

    def _new(self, stage: str, known: dict[str, Any]) -> Iterator[tuple[Artifact, str]]:
        listed = [key for key, _ in self.store.list(f"{stage}/history")]
        for gone in set(known) - set(listed):
            del known[gone]
        for key in listed:
            if key not in known:
                artifact = self._readable(stage, key)
                if artifact is not None:
                    self._shown.pop(artifact.key, None)
                    yield artifact, key

    def _readable(self, stage: str, stamp: str) -> Artifact | None:
        """Return what was committed; None if it is damaged or of another version: it hides no other."""
        try:
            artifact = newest_commit(self.store, f"{stage}/{stamp.rpartition('-')[2]}")
            if artifact is not None and stage in _FACTS:
                _FACTS[stage].of(artifact)
        except StoreError:
            raise
        except SanaError as error:
            if stamp not in self._damaged:
                _log.warning("left out of the page: %s", one_line(error))
                self._damaged.add(stamp)
            return None
        return artifact

    def artifact(self, stage: str, fingerprint: str) -> Artifact:
        """Return an artifact by its name, as it was when it was last committed. Raises LookupError: there is none."""
        key = f"{stage}/{fingerprint}"
        if key not in self._shown:
            self._shown[key] = read_artifact(self.store, stage, fingerprint)
            while len(self._shown) > _MAX_SHOWN:
                self._shown.popitem(last=False)
        self._shown.move_to_end(key)
        return self._shown[key]


def read_artifact(store: Store, stage: str, fingerprint: str) -> Artifact:
    """Read an artifact by its name. Raises LookupError: there is none."""
    found = newest_commit(store, f"{stage}/{fingerprint}")
    if found is None:
        raise LookupError(f"there is no artifact {stage}/{fingerprint}")
    return found


def _training(artifact: Artifact) -> TrainingEntry:
    facts, steps = TrainFacts.of(artifact), artifact.config.get("max_steps")
    return TrainingEntry(
        trajectory=facts.trajectory,
        fingerprint=artifact.fingerprint,
        weights=artifact.content.get("weights", ""),
        latents=artifact.inputs.get("latents", ""),
        method=method_of(artifact),
        step=facts.step,
        max_steps=steps if isinstance(steps, int) else facts.step,
        created_at=artifact.created_at,
        seconds=artifact.seconds,
        num_bytes=sum(file.num_bytes for file in artifact.files.values()),
    )


def _evaluation(artifact: Artifact) -> EvalRow | None:
    try:
        facts = EvaluateFacts.of(artifact)
    except SanaError:
        return None
    for name in PREFERRED_WEIGHTS:
        if (loss := facts.weights.get(name)) is not None:
            paired = facts.paired.get(name)
            drop = paired.relative_drop if paired is not None else None
            return EvalRow(artifact.fingerprint, name, loss.mean, loss.stderr, drop)
    return None
