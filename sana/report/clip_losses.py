"""The samples that cost most and least in training, against others at their noise levels, with pictures and captions.

A loss far above 1 may be a wrong caption, a damaged clip, or one that is unlike the others; far below, one that barely
moves or that is there several times.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sana.artifact import Artifact
from sana.data.columns import batches, find_rows
from sana.report.histogram import Histogram, histogram
from sana.report.thumbnails import Pictures, Thumbnail
from sana.store import Store

TABLE = "clip_losses.parquet"  # of the train artifact; older ones have none
NUM_SHOWN = 8  # hardest, and as many easiest
_WANTED_DRAWS = 3  # a mean of fewer losses says little: those of more are shown, where there are any
_COLUMNS = ("sample_id", "clip_id", "num_draws", "normalised_loss", "stderr")


@dataclass(frozen=True)
class ClipLoss:
    """One sample: how often it was drawn, its normalised loss with standard error, its first caption and picture."""

    sample_id: str
    num_draws: int
    loss: float
    stderr: float | None
    caption: str
    picture: Thumbnail | None


@dataclass(frozen=True)
class ClipLosses:
    """Of all samples that were drawn; of those shown, each was drawn `min_draws` times at least."""

    num_samples: int
    num_draws: int
    min_draws: int
    losses: Histogram | None
    hardest: Sequence[ClipLoss]
    easiest: Sequence[ClipLoss]
    missing: Mapping[str, int]  # why pictures are not there


def clip_losses(store: Store, train: Artifact, *, download: Artifact, pictures: Pictures) -> ClipLosses | None:
    """Read the table of a train artifact; None where it has none, or no sample was drawn. Memory is bounded.

    Raises:
        SanaError: a table is gone or damaged.
    """
    if TABLE not in train.files:
        return None
    losses, draws = [], []
    for batch in batches(store, train, TABLE, ["normalised_loss", "num_draws"]):
        losses.append(batch.column("normalised_loss").to_numpy())
        draws.append(batch.column("num_draws").to_numpy())
    drawn = np.concatenate(draws) if draws else np.zeros(0, np.int32)
    if not len(drawn):
        return None
    min_draws = int(min(_WANTED_DRAWS, drawn.max()))
    order: dict[str, Any] = {"hardest": "descending", "easiest": "ascending"}
    shown = {name: _outermost(store, train, way, min_draws) for name, way in order.items()}
    chosen = {row["sample_id"]: row for rows in shown.values() for row in rows}
    clips = sorted({row["clip_id"] for row in chosen.values()})
    texts = find_rows(store, download, "captions.parquet", ["captions"], key="clip_id", among=clips)
    captions = {row["clip_id"]: row["captions"][0] if row["captions"] else "" for row in texts}
    thumbnails, missing = pictures(sorted(chosen))

    def of(row: Mapping[str, Any]) -> ClipLoss:
        return ClipLoss(
            row["sample_id"],
            row["num_draws"],
            row["normalised_loss"],
            row["stderr"],
            captions.get(row["clip_id"], ""),
            thumbnails.get(row["sample_id"]),
        )

    return ClipLosses(
        len(drawn),
        int(drawn.sum()),
        min_draws,
        histogram(np.concatenate(losses)),
        [of(row) for row in shown["hardest"]],
        [of(row) for row in shown["easiest"]],
        missing,
    )


def _outermost(store: Store, train: Artifact, way: str, min_draws: int) -> list[dict[str, Any]]:
    """Return the first rows in one order of the normalised loss, of those that were drawn often enough."""
    best: pa.Table | None = None
    for batch in batches(store, train, TABLE, list(_COLUMNS)):
        often = pa.Table.from_batches([batch]).filter(pc.greater_equal(batch.column("num_draws"), min_draws))
        both = often if best is None else pa.concat_tables([best, often])
        keys = [("normalised_loss", way), ("sample_id", "ascending")]
        best = both.take(pc.select_k_unstable(both, k=NUM_SHOWN, sort_keys=keys))
    return [] if best is None else list(best.to_pylist())
