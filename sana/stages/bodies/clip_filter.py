"""The body of filters: clips in -> clips + rejects. A stage says which clips it keeps; everything else is done here.

A filter reads a table of clips and gives the same table with fewer rows, so nothing below it knows of it. One that
rejects nothing gives the content that it read: what is below it is cached.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from sana.arrow import to_parquet, value_counts
from sana.artifact import Artifact, Draft, Recipe
from sana.context import Context
from sana.data.schemas import REJECTS
from sana.data.tables import content_digest, count_rejects, read_table

VIEWS: Mapping[str, str] = {"clips": "videos", "probed_clips": "clips"}  # table of clips -> content view of all of it


class Verdict(NamedTuple):
    """Why a clip is rejected, and what was found, in words. KEPT: it is not."""

    reason: str
    detail: str


KEPT = Verdict("", "")


def remaining_clips(context: Context, inputs: Mapping[str, Artifact]) -> tuple[int, int, str]:
    """Return (done, total, unit) of the work at hand: of a filter, all clips at once."""
    return 0, next(inputs[table].counts.num_out for table in VIEWS if table in inputs), "clips"


def filter_clips(
    context: Context,
    recipe: Recipe,
    inputs: Mapping[str, Artifact],
    judge: Callable[[pa.Table], Sequence[Verdict]],
    *,
    reasons: type[StrEnum],
    table: str = "probed_clips",
) -> Artifact:
    """Write `clips.parquet`, the clips that `judge` keeps, and `rejects.parquet`, and commit them.

    Args:
        judge: gives a verdict on each row of a table of clips, in their order; may run a worker first.
        reasons: all that it may give: a closed list, which a filter declares in its own module.
        table: the table of clips that is read and given: a key of VIEWS.

    Raises:
        ValueError: a reason is not one of `reasons`, or there is not one verdict for each clip.
    """
    draft = Draft(context.store, recipe, forced=bool(context.salt))
    clips = read_table(context.store, inputs[table], "clips.parquet")
    verdicts = judge(clips)
    found, details = (pa.array([one[place] for one in verdicts], pa.string()) for place in (0, 1))
    if unknown := set(pc.unique(found).to_pylist()) - {"", *reasons}:
        raise ValueError(f"{recipe.stage}: {', '.join(sorted(unknown))} is not in {reasons.__name__}; add it there")
    if len(verdicts) != clips.num_rows:
        raise ValueError(f"{recipe.stage}: {len(verdicts)} verdicts on {clips.num_rows} clips; give one for each")
    keeps = pc.equal(found, "")
    stages = pa.repeat(pa.scalar(recipe.stage), clips.num_rows)
    kept = clips.filter(keeps)
    judged = [*clips.select(["clip_id", "dataset", "path"]).columns, stages, found, details]
    rejects = pa.table(judged, REJECTS.names).filter(pc.invert(keeps)).cast(REJECTS)
    draft.add("clips.parquet", to_parquet(kept))
    draft.add("rejects.parquet", to_parquet(rejects))
    return draft.commit(
        content={VIEWS[table]: content_digest(kept, kept.schema.names)},
        counts=count_rejects(value_counts(clips.column("dataset")), kept.num_rows, rejects),
    )
