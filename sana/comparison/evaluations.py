"""Evaluations as they are in a root: the losses of one set of weights, and which samples they are of."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sana.arrow import read_parquet
from sana.artifact import Artifact
from sana.comparison.lineage import INDEX, Lineage
from sana.data.columns import find_rows
from sana.data.eval_table import EvalTable, tables_by_weights
from sana.errors import SanaError, repair_hint
from sana.facts import ComputeSettings, EvaluateFacts, EvaluateWeightsFacts
from sana.runtime.results import EvalReport

LOSSES_FILE, CONDITIONS_FILE = "losses.parquet", "condition_losses.parquet"
# of the recipe, what may differ between two evaluations that are still compared, and what it is called
_SETTINGS = ("mixed_precision", "weights_dtype", "text_padding")


@dataclass(frozen=True)
class EvalSample:
    """One sample of an eval list: what its losses depend on beside the weights."""

    clip_id: str
    dataset: str
    bucket: str
    sample_key: str  # the video's content and how it is cut
    digest: str  # the latent's bits
    text_key: str  # its first caption


@dataclass(frozen=True)
class Evaluation:
    """The losses of one set of weights: `weights` names its rows in an artifact of evaluate or evaluate_weights."""

    lineage: Lineage
    artifact: Artifact
    weights: str

    @property
    def eval_set(self) -> tuple[str | None, str | None]:
        """The digests of the eval split's latents and captions: equal ones are the same samples, bit by bit."""
        return self.artifact.inputs.get("latents"), self.artifact.inputs.get("captions")

    @property
    def settings(self) -> dict[str, Any]:
        """What of the settings changes losses, and not which losses there are."""
        return {name: self.artifact.config.get(name) for name in _SETTINGS}

    @property
    def base(self) -> str | None:
        """The digest of the transformer before training."""
        return self.artifact.inputs.get("initial_weights")

    @property
    def separate_datasets(self) -> frozenset[str]:
        """The data sets that are measured by themselves, not as part of the eval loss."""
        found = self.artifact.config.get("separate_datasets", [])
        return frozenset(map(str, found)) if isinstance(found, list) else frozenset()

    @cached_property
    def losses(self) -> EvalTable:
        """The table of losses, of all data sets. Raises SanaError: it is gone or damaged."""
        return self._table(self._rows(LOSSES_FILE), LOSSES_FILE)

    @cached_property
    def conditions(self) -> dict[str, EvalTable]:
        """The losses with each condition in every sample, by its label. Raises SanaError as `losses`."""
        if CONDITIONS_FILE not in self.artifact.files:
            return {}
        rows = self._rows(CONDITIONS_FILE)
        labels = sorted(pc.unique(rows.column("condition")).to_pylist())
        chosen = {label: rows.filter(pc.equal(rows.column("condition"), label)) for label in labels}
        return {label: self._table(some, CONDITIONS_FILE) for label, some in chosen.items()}

    def _rows(self, name: str) -> pa.Table:
        where = self._where(name)
        try:
            if name not in self.artifact.files:
                raise FileNotFoundError(where)
            return read_parquet(self.lineage.store.read(self.artifact.files[name].key))
        except FileNotFoundError as error:
            raise SanaError(f"{where} is gone; {repair_hint(deep=True)}") from error

    def _table(self, rows: pa.Table, name: str) -> EvalTable:
        tables = tables_by_weights(rows, where=self._where(name))
        if self.weights not in tables:
            known = ", ".join(sorted(tables))
            raise SanaError(f"{self._where(name)} has losses of the {known} weights, and none of {self.weights}")
        return tables[self.weights]

    def _where(self, name: str) -> str:
        info = self.artifact.files.get(name)
        return self.lineage.store.uri(info.key if info else f"{self.artifact.key}/{name}")

    @cached_property
    def samples(self) -> dict[str, EvalSample] | None:
        """What each sample of the list is; None: the tables that say so are gone (`sana gc --before`)."""
        latents, captions = self.lineage.latents(self.artifact, "eval"), self.lineage.captions(self.artifact, "eval")
        if latents is None or captions is None:
            return None
        store, columns = self.lineage.store, ("clip_id", "dataset", "bucket", "sample_key", "digest")
        rows = find_rows(store, latents, INDEX, columns, key="sample_id", among=list(self.losses.sample_ids))
        clips = sorted({row["clip_id"] for row in rows})
        texts = find_rows(store, captions, INDEX, ("role", "position", "text_key"), key="name", among=clips)
        text_of = {row["name"]: row["text_key"] for row in texts if row["role"] == "eval" and row["position"] == 0}
        return {
            row["sample_id"]: EvalSample(
                row["clip_id"],
                row["dataset"],
                row["bucket"],
                row["sample_key"],
                row["digest"],
                text_of.get(row["clip_id"], ""),
            )
            for row in rows
        }

    @cached_property
    def compute(self) -> ComputeSettings | None:
        """How the losses were computed; None: it was not kept."""
        if self.artifact.stage == EvaluateWeightsFacts.STAGE:
            return EvaluateWeightsFacts.of(self.artifact).compute
        info = self.artifact.files.get(EvalReport.FILE)
        if info is None or not self.lineage.store.exists(info.key):
            return None
        store = self.lineage.store
        return EvalReport.from_json(store.read(info.key), where=store.uri(info.key)).compute


def closest(a: Sequence[Evaluation], b: Sequence[Evaluation]) -> tuple[Evaluation, Evaluation]:
    """Return the evaluations of A and B that have most in common: of equal ones the newest; both have some."""

    def likeness(one: Evaluation, other: Evaluation) -> tuple[bool, bool, bool, bool]:
        same_list = one.eval_set == other.eval_set
        grids = [evaluation.artifact.config.get("num_sigmas") for evaluation in (one, other)]
        return (same_list, grids[0] == grids[1], one.settings == other.settings, one.base == other.base)

    pairs = [(one, other) for one in a for other in b]
    return max(pairs, key=lambda pair: likeness(*pair))  # the first of equals, and each list has its newest first


def evaluations_of_training(lineage: Lineage, trained: Artifact, weights: str) -> Iterator[Evaluation]:
    """Yield the evaluations of what a train artifact trained, the newest first."""
    for found in lineage.all(EvaluateFacts.STAGE):
        if found.inputs.get("weights") == trained.content.get("weights"):
            yield Evaluation(lineage, found, weights)
