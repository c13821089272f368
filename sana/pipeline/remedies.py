"""Remedies with numbers: for each reason of a rejection the settings that would take the rejected clips.

A change of the bucket rules is tried on those clips, and the remedy says how many of them it takes. What helps in
general, in words, is in `sana.data.rejections`.
"""

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sana.config.bucket import BucketRules
from sana.config.data import DatasetConfig
from sana.config.pipeline import Config
from sana.data.bucketing.assignment import REJECTIONS, ClipShapes, assign_buckets, picture_size
from sana.data.bucketing.windows import available_frames
from sana.data.rejections import remedy as general_remedy
from sana.data.schemas import Reason

_SHORTEST, _SIDE = 1, 16  # frames and pixels of the smallest bucket
Proposals = list[tuple[str, dict[str, Any]]]  # why, and settings of bucket rules
MAX_SIZES = 6  # of a list of buckets, for which shorter ones are named


@dataclass(frozen=True)
class Change:
    """Settings of bucket rules that would take `taken` of the rejected clips; `why` is said before them."""

    settings: Mapping[str, Any]
    taken: int
    why: str


def remedy(config: Config, dataset: DatasetConfig, rows: pa.Table, facts: pa.Table) -> str:
    """Return what would help against one reason, in words.

    Args:
        rows: of REJECTS, all of this data set and with one reason.
        facts: rows of PROBED of those clips of them that bucket rejected.
    """
    reason = rows["reason"][0].as_py()
    if reason in ("caption_too_short", "caption_too_long"):
        words = [int(text.split(" ")[0]) for text in rows["detail"].to_pylist()]
        low = reason == "caption_too_short"
        name, limit = ("min_words", min(words)) if low else ("max_words", max(words))
        return f"{'lower' if low else 'raise'} it: -s filter_captions.{name}={max(1, limit)} lets all of them pass"
    changes = changes_for(reason, config.rules_of(dataset), facts) if facts.num_rows else []
    if not changes:
        return general_remedy(config, dataset.id, reason)
    prefix = "bucket" if dataset.bucket is None else f"download.datasets.{dataset.id}.bucket"
    said = [
        f"{change.why} {options_of(prefix, change.settings)} "
        f"takes {'all' if change.taken == facts.num_rows else f'{change.taken} of {facts.num_rows}'}"
        for change in changes
    ]
    return "; ".join(said)


def changes_for(reason: str, rules: BucketRules, facts: pa.Table) -> list[Change]:
    """Return the changes of bucket rules that take some of the clips that bucket rejected for this reason."""
    width, height, num_frames = (facts[name].to_numpy().astype(np.int64) for name in ("width", "height", "num_frames"))
    clips = ClipShapes(width, height, available_frames(num_frames, facts["duration_s"].to_numpy(), rules.target_fps))
    found: list[Change] = []
    for why, settings in _PROPOSALS[reason](rules, clips) if reason in _PROPOSALS else ():
        settings, taken = _settled(rules, clips, settings)
        if taken > (found[-1].taken if found else 0):
            found.append(Change(settings, taken, why))
    return found


def _settled(rules: BucketRules, clips: ClipShapes, settings: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Try settings on rejected clips: where the next rule rejects all of them, change that one as well.

    Returns (settings, number of clips that they take).
    """
    for _ in range(len(_PROPOSALS)):
        changed = rules.model_copy(update=settings)
        codes = assign_buckets(changed, clips, changed.shapes)[1]
        taken = int(np.count_nonzero(codes == 0))
        rejection = REJECTIONS[int(np.bincount(codes).argmax())]
        if taken or rejection is None:
            break
        among = clips.take(codes == np.bincount(codes).argmax())
        proposals = [more for _, more in _PROPOSALS[rejection[0]](changed, among) if not more.keys() & settings.keys()]
        if not proposals:
            break
        settings = {**settings, **proposals[0]}
    return settings, taken


def _shorter(rules: BucketRules, clips: ClipShapes) -> Proposals:
    longest, shortest = int(clips.frames.max()), int(clips.frames.min())
    lengths = np.sort(clips.frames)
    most_used = int(lengths[np.argmax(lengths * np.arange(len(lengths), 0, -1))])  # samples hold most frames then
    needed = min(bucket.num_frames for bucket in rules.shapes)
    limit = (
        f"bucket.min_frames asks for {rules.min_frames} frames"
        if rules.min_frames > needed
        else f"the shortest bucket needs {needed} frames"
    )
    proposals: Proposals = []
    why = f"{limit}, the longest of these has {longest}: lower it,"
    for frames in dict.fromkeys((_as_length(most_used), _as_length(shortest))):
        settings: dict[str, Any] = {} if needed <= frames else _of_length(rules, frames)
        if rules.min_frames > frames:
            settings["min_frames"] = frames
        if settings:
            proposals.append((why, settings))
            why = "or"
    return proposals


def _as_length(frames: int) -> int:
    """Return the longest 4k + 1 that a clip of so many frames has."""
    return max(_SHORTEST, frames - (frames - 1) % 4)


def _of_length(rules: BucketRules, frames: int) -> dict[str, Any]:
    if not rules.buckets:
        return {"num_frames": frames}
    sizes = list(dict.fromkeys((bucket.height, bucket.width) for bucket in rules.shapes))
    added = [f"{frames}x{height}x{width}" for height, width in sizes[:MAX_SIZES]]
    return {"buckets": (*rules.buckets, *added)}


def _trimmed(rules: BucketRules, clips: ClipShapes) -> Proposals:
    longest = int(clips.frames.max())
    why = f"max_frames is {rules.max_frames}, the longest of these has {longest}: use only their first frames,"
    return [(why, {"too_long": "trim"})]


def _smaller(rules: BucketRules, clips: ClipShapes) -> Proposals:
    size = picture_size(clips.width, clips.height, rules.resolution_type)
    settings: dict[str, Any] = {}
    if rules.minimum_image_size is not None and size.min() < rules.minimum_image_size:
        settings["minimum_image_size"] = math.floor(size.min() * 100) / 100
    at = int(np.argmin(clips.width * clips.height))
    why = f"the smallest of these is {clips.width[at]}x{clips.height[at]}:"
    proposals: Proposals = [(why, settings)] if settings else []
    if not rules.buckets and rules.table != "resolution" and rules.resolution_type == "pixel_area":
        side = int(math.sqrt(float((clips.width * clips.height).min()))) // _SIDE * _SIDE
        # sizes are rounded to 16: one or two steps lower all of them fit
        proposals += [
            (f"{why} smaller buckets,", {"table": "resolution", "resolution": side - _SIDE * step, **settings})
            for step in (2, 1, 0)
            if side - _SIDE * step >= _SIDE
        ][:1]
    upscale = f"{'or' if proposals else why} upscale them, which teaches blur,"
    return [*proposals, (upscale, {"allow_upscale": True, **settings})]


def _wider(rules: BucketRules, clips: ClipShapes) -> Proposals:
    longer = np.maximum(clips.width, clips.height) / np.minimum(clips.width, clips.height)
    limit = math.ceil(10 * float(longer.max())) / 10
    return [(f"their sides are up to {longer.max():.2f} to 1: crop more of them,", {"max_aspect_ratio": limit})]


_PROPOSALS: Mapping[str, Callable[[BucketRules, ClipShapes], Proposals]] = {
    Reason.TOO_SHORT: _shorter,
    Reason.TOO_LONG: _trimmed,
    Reason.TOO_SMALL: _smaller,
    Reason.ASPECT: _wider,
}


def options_of(prefix: str, settings: Mapping[str, Any]) -> str:
    """Write settings as options that can be pasted into a shell."""
    return " ".join(f"-s {shlex.quote(f'{prefix}.{key}={_plain(value)}')}" for key, value in settings.items())


def _plain(value: Any) -> str:
    """Write a value as an override has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def facts_of(rows: pa.Table, probed: pa.Table) -> pa.Table:
    """Return the rows of `probed` of the rejected clips that bucket has judged."""
    judged = rows.filter(pc.equal(rows["stage"], "bucket"))
    return probed.filter(pc.is_in(probed["clip_id"], value_set=judged["clip_id"].combine_chunks()))
