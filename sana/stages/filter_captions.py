"""Filter captions: reject clips whose captions are too short or too long. Opens no video, loads no model."""

import math
from collections.abc import Mapping
from enum import StrEnum

import pyarrow as pa
import pyarrow.compute as pc

from sana.artifact import Artifact, Recipe
from sana.config.filters import FilterCaptionsConfig
from sana.config.pipeline import Config
from sana.context import Context
from sana.data.tables import read_table
from sana.stages.bodies.clip_filter import KEPT, Verdict, filter_clips, remaining_clips

NAME, VERSION = "filter_captions", 1
READS, GIVES = ("probed_clips", "captions"), ("probed_clips",)
TIMEOUT_S = 600.0
remaining = remaining_clips


class CaptionReason(StrEnum):
    SHORT = "caption_too_short"  # one of the captions has fewer words than min_words
    LONG = "caption_too_long"  # one of them has more than max_words


def is_used(config: Config) -> bool:
    return config.filter_captions is not None


def recipe(context: Context, inputs: Mapping[str, Artifact]) -> Recipe:
    """Reads the clips that are left and all captions."""
    read = {"clips": inputs["probed_clips"].content["clips"], "captions": inputs["captions"].content["captions"]}
    return Recipe(NAME, VERSION, _limits(context).hashed(), read)


def run(context: Context, inputs: Mapping[str, Artifact], recipe: Recipe) -> Artifact:
    """Write `clips.parquet` and `rejects.parquet`. Words are those of the final captions, affixes included."""
    low, high = _limits(context).min_words or 0, _limits(context).max_words or math.inf
    captions = read_table(context.store, inputs["captions"], "captions.parquet")

    def judge(clips: pa.Table) -> list[Verdict]:
        at = pc.index_in(clips["clip_id"], captions["clip_id"].combine_chunks())
        return [verdict([len(text.split()) for text in texts.as_py()]) for texts in captions["captions"].take(at)]

    def verdict(words: list[int]) -> Verdict:
        if min(words) < low:
            return Verdict(CaptionReason.SHORT, f"{min(words)} words; min_words is {low}")
        if max(words) > high:
            return Verdict(CaptionReason.LONG, f"{max(words)} words; max_words is {high}")
        return KEPT

    return filter_clips(context, recipe, inputs, judge, reasons=CaptionReason)


def _limits(context: Context) -> FilterCaptionsConfig:
    assert context.config.filter_captions is not None, "is_used"
    return context.config.filter_captions
