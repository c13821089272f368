"""Bucket: give every clip a shape, windows of frames and a split. Opens no video: it only reads probe's table."""

import difflib
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sana.artifact import Artifact, Draft, Recipe
from sana.config.bucket import BucketRules
from sana.config.pipeline import Config
from sana.context import Context
from sana.data.assign import Assignment, assign
from sana.data.manifest import content_digest, read_table, to_parquet
from sana.data.schemas import CUT
from sana.errors import ConfigError, RefusedError

NAME = "bucket"
VERSION = 2
INPUTS = ("probe",)
# What encode_latents reads of a window: source_id and the like may change without a video being opened.
WINDOW_COLUMNS = ("sample_id", "clip_id", "dataset", "split", "passes", *CUT)


def recipe(context: Context, inputs: Mapping[str, Artifact]) -> Recipe:
    """Bucket reads what probe found, its own section, and what data sets say otherwise."""
    config = context.config.bucket.hashed()
    if own := _deviations(context.config):
        config["datasets"] = own
    return Recipe(NAME, VERSION, config, {"clips": inputs["probe"].content["clips"]})


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
    return 0, inputs["probe"].counts["out"], "clips"


def run(context: Context, inputs: Mapping[str, Artifact]) -> Artifact:
    """Write `clips.parquet` (one row per window) and `rejects.parquet`.

    Raises:
        ConfigError: `eval_sources` names a source that is not there, or roles put one source into both splits.
        RefusedError: one split would be empty.
    """
    draft = Draft(context.store, recipe(context, inputs), forced=bool(context.salt))
    clips = read_table(context.store, inputs["probe"], "clips.parquet")
    assigned = assign(clips, context.config)
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


def check_splits(config: Config, clips: pa.Table, assigned: Assignment) -> None:
    """Fail when no training can come of an assignment.

    Raises:
        ConfigError: `eval_sources` names a source that is not there, or roles put one source into both splits.
        RefusedError: one split is empty.
    """
    windows = assigned.windows
    if windows.num_rows == 0:
        return  # the refusals are what there is to say
    _check_sources(config, clips, windows)
    _check_roles(config, windows)
    bucket, num_sources = config.bucket, assigned.facts["sources"]
    for split in ("train", "eval"):
        if not any(counted[split] for counted in assigned.facts["buckets"].values()):
            if num_sources < 2:
                fix = "at least two sources are needed, one for each split"
            elif split == "eval":
                fix = "raise bucket.eval_fraction, or name sources in bucket.eval_sources"
            else:
                fix = "lower bucket.eval_fraction, or name fewer sources in bucket.eval_sources"
            raise RefusedError(
                f"bucket: the {split} split is empty: {assigned.counts['out']} clips, {num_sources} sources, "
                f"eval_fraction {bucket.eval_fraction:g}; {fix}"
            )


def _check_sources(config: Config, clips: pa.Table, windows: pa.Table) -> None:
    """Every name in `eval_sources` must be of a source that is left and that no role has put elsewhere."""
    if not config.bucket.eval_sources:
        return
    divided = pa.array([dataset.id for dataset in config.download.enabled if dataset.role != "train"], pa.string())
    known, divisible, kept = (
        set(pc.unique(table["source_id"]).to_pylist())
        for table in (clips, clips.filter(pc.is_in(clips["dataset"], value_set=divided)), windows)
    )
    for name in config.bucket.eval_sources:
        if name in kept and name in divisible:
            continue
        what, near = "no clip has it", difflib.get_close_matches(name, sorted(known), n=1)
        if name in known:
            what = "all its clips were refused" if name in divisible else "its data set has role: train"
        left = ", ".join(sorted(kept)[:8])
        hint = f"; did you mean {near[0]}?" if near and name not in known else f"; there are {left}"
        raise ConfigError(f"bucket.eval_sources: source {name!r}: {what}{hint}")


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
