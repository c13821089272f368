"""Bucket: give every clip a shape, windows of frames and a split. Opens no video: it only reads probe's table."""

import logging
from collections.abc import Mapping
from typing import Any

from sana.arrow import to_parquet
from sana.artifact import Artifact, Draft, Recipe
from sana.config.bucket import BucketRules
from sana.config.pipeline import Config
from sana.context import Context
from sana.data.bucketing.split_check import check_splits, split_notes
from sana.data.bucketing.treatments import treatment_lines
from sana.data.bucketing.window_table import make_window_table
from sana.data.tables import read_table
from sana.stages.bodies.window_views import content_of_windows

log = logging.getLogger(__name__)

NAME = "bucket"
VERSION = 4
READS = ("probed_clips",)
GIVES = ("windows",)
TIMEOUT_S = 600.0


def recipe(context: Context, inputs: Mapping[str, Artifact]) -> Recipe:
    """Bucket reads what probe found, its own section, and what data sets say otherwise."""
    config = context.config.bucket.hashed()
    if own := _deviations(context.config):
        config["datasets"] = own
    divided = [dataset.id for dataset in context.config.download.enabled if dataset.role == "split"]
    if divided != sorted(divided):  # what they share has the split of the first
        config["order"] = divided
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
        ConfigError: `holdout` names nothing that can be held out, or roles put one source into both splits.
        RejectedError: one split would be empty.
    """
    draft = Draft(context.store, recipe, forced=bool(context.salt))
    clips = read_table(context.store, inputs["probed_clips"], "clips.parquet")
    assigned = make_window_table(clips, context.config)
    windows = assigned.windows
    draft.add("clips.parquet", to_parquet(windows))
    draft.add("rejects.parquet", to_parquet(assigned.rejects))
    check_splits(context.config, clips, assigned)
    for note in [*split_notes(context.config, clips, assigned), *treatment_lines(assigned.facts)]:
        log.warning("%s", note)
    return draft.commit(content=content_of_windows(windows), counts=assigned.counts, facts=assigned.facts)
