"""Bucket: give every clip a shape, windows of frames and a split. Opens no video: it only reads probe's table."""

import difflib
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sana.arrow import to_parquet, value_counts
from sana.artifact import Artifact, Draft, Recipe
from sana.config.bucket import BucketRules
from sana.config.pipeline import Config
from sana.context import Context
from sana.data.bucketing.split import assign_splits
from sana.data.bucketing.window_table import WindowTable, make_window_table
from sana.data.schemas import SAMPLE_KEY_COLUMNS
from sana.data.tables import content_digest, read_table
from sana.errors import ConfigError, RejectedError

NAME = "bucket"
VERSION = 3
READS = ("probed_clips",)
GIVES = ("windows",)
TIMEOUT_S = 600.0
# What encode_latents reads of a window: source_id and the like may change without a video being opened.
WINDOW_COLUMNS = ("sample_id", "clip_id", "dataset", "split", "draws_per_epoch", *SAMPLE_KEY_COLUMNS)


def recipe(context: Context, inputs: Mapping[str, Artifact]) -> Recipe:
    """Bucket reads what probe found, its own section, and what data sets say otherwise."""
    config = context.config.bucket.hashed()
    if own := _deviations(context.config):
        config["datasets"] = own
    return Recipe(NAME, VERSION, config, {"clips": inputs["probed_clips"].content["clips"]})


def _deviations(config: Config) -> dict[str, Any]:
    """Return {data set: its rules and role} of those in use that do not simply follow the bucket section."""
    shared = {name: value for name, value in config.bucket.hashed().items() if name in BucketRules.model_fields}
    own = {}
    for dataset in config.download.enabled:
        rules = config.rules_of(dataset).hashed()
        deviates: dict[str, Any] = {} if dataset.role == "split" else {"role": dataset.role}
        if dataset.bucket is not None and rules != shared:
            deviates["bucket"] = rules
        if deviates:
            own[dataset.id] = deviates
    return own


def remaining(context: Context, inputs: Mapping[str, Artifact]) -> tuple[int, int, str]:
    """Return (done, total, unit) of the work at hand."""
    return 0, inputs["probed_clips"].counts.num_out, "clips"


def run(context: Context, inputs: Mapping[str, Artifact], recipe: Recipe) -> Artifact:
    """Write `clips.parquet` (one row per window) and `rejects.parquet`.

    Raises:
        ConfigError: `holdout_sources` names a source that is not there, or roles put one source into both splits.
        RejectedError: one split would be empty.
    """
    draft = Draft(context.store, recipe, forced=bool(context.salt))
    clips = read_table(context.store, inputs["probed_clips"], "clips.parquet")
    assigned = make_window_table(clips, context.config)
    windows = assigned.windows
    draft.add("clips.parquet", to_parquet(windows))
    draft.add("rejects.parquet", to_parquet(assigned.rejects))
    check_splits(context.config, clips, assigned)
    members = windows.select(["clip_id", "split"]).group_by(["clip_id", "split"]).aggregate([])
    return draft.commit(
        content={
            "windows": content_digest(windows, WINDOW_COLUMNS),
            "members": content_digest(members, ("clip_id", "split")),
        },
        counts=assigned.counts,
        facts=assigned.facts,
    )


def check_splits(config: Config, clips: pa.Table, assigned: WindowTable) -> None:
    """Fail when no training can come of an assignment.

    Raises:
        ConfigError: `holdout_sources` names a source that is not there, or roles put one source into both splits.
        RejectedError: one split is empty.
    """
    windows = assigned.windows
    if windows.num_rows == 0:
        return  # the rejections are what there is to say
    _check_sources(config, clips, windows)
    _check_roles(config, windows)
    for split in ("train", "eval"):
        counted = assigned.facts.buckets.values()
        if not any(one.train if split == "train" else one.eval for one in counted):
            raise RejectedError(
                f"bucket: the {split} split is empty: {assigned.counts.num_out} clips, {assigned.facts.sources} "
                f"sources are left; {_why_empty(config, clips, assigned, split)}"
            )


def _why_empty(config: Config, clips: pa.Table, assigned: WindowTable, split: str) -> str:
    """Say whether the clips of a split were rejected, or none was meant for it, and what to do."""
    is_eval, _ = assign_splits(clips, config)
    meant = clips.filter(pa.array(is_eval == (split == "eval")))
    if meant.num_rows:
        mine = pc.is_in(assigned.rejects["clip_id"], value_set=meant["clip_id"].combine_chunks())
        reasons = Counter(value_counts(assigned.rejects["reason"].filter(mine))).most_common(3)
        top = ", ".join(f"{num} {reason}" for reason, num in reasons)
        return (
            f"all {meant.num_rows} clips meant for it were rejected ({top}); fix them, or loosen the rules of `bucket`"
        )
    rejected = [dataset.where for dataset in config.download.enabled if dataset.role == split]
    if rejected:  # its role is this one, and no clip of it came here
        return (
            f"{', '.join(rejected)} with role: {split} came here without a clip, as all were rejected before; fix them"
        )
    divided = pa.array([dataset.id for dataset in config.download.enabled if dataset.role == "split"], pa.string())
    names = pc.unique(clips["source_id"].filter(pc.is_in(clips["dataset"], value_set=divided)))
    why = f"no data set has role: {split}, and none of the {len(names)} sources that came here to be split falls to it"
    if len(names) < 2:
        return f"{why}: at least two sources are needed, one for each split, or a data set with role: {split}"
    way = "raise bucket.eval_fraction, or name" if split == "eval" else "lower bucket.eval_fraction, or name fewer"
    return f"{why} (eval_fraction {config.bucket.eval_fraction:g}): {way} sources in bucket.holdout_sources"


def _check_sources(config: Config, clips: pa.Table, windows: pa.Table) -> None:
    """Every name in `holdout_sources` must be of a source that is left and that no role has put elsewhere."""
    if not config.bucket.holdout_sources:
        return
    divided = pa.array([dataset.id for dataset in config.download.enabled if dataset.role != "train"], pa.string())
    known, divisible, kept = (
        set(pc.unique(table["source_id"]).to_pylist())
        for table in (clips, clips.filter(pc.is_in(clips["dataset"], value_set=divided)), windows)
    )
    for name in config.bucket.holdout_sources:
        if name in kept and name in divisible:
            continue
        what, near = "no clip has it", difflib.get_close_matches(name, sorted(known), n=1)
        if name in known:
            what = "all its clips were rejected" if name in divisible else "its data set has role: train"
        left = ", ".join(sorted(kept)[:8])
        hint = f"; did you mean {near[0]}?" if near and name not in known else f"; there are {left}"
        raise ConfigError(f"bucket.holdout_sources: source {name!r}: {what}{hint}")


def _check_roles(config: Config, windows: pa.Table) -> None:
    """A source that several data sets share must not be trained on by one and held out by another's role."""
    if all(dataset.role == "split" for dataset in config.download.enabled):
        return  # equal sources have equal splits
    sides = [pc.unique(windows["source_id"].filter(pc.equal(windows["split"], side))) for side in ("train", "eval")]
    both = sorted(set(sides[0].to_pylist()) & set(sides[1].to_pylist()))
    if both:
        raise ConfigError(
            f"download.datasets: roles put {len(both)} sources into both splits, first {both[0]!r}: training would "
            "see what the eval loss is measured on; give the data sets one role, or another source_pattern"
        )
