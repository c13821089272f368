"""Bucket: give every clip a shape, a window of frames and a split. Opens no video: it only reads probe's table."""

import difflib
import hashlib
from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any

from sana.artifact import Artifact, Draft, Recipe
from sana.bucket import Bucket, covering_box, nearest, upscales
from sana.config.bucket import BucketConfig
from sana.context import Context
from sana.data.manifest import content_digest, count_rejects, read_table, refused_by_dataset, table_of, to_parquet
from sana.data.schemas import CUT, REJECTS, WINDOWS, Reason
from sana.errors import ConfigError, RefusedError

NAME = "bucket"
VERSION = 2
INPUTS = ("probe",)
# What encode_latents reads of a window: source_id and the like may change without a video being opened.
WINDOW_COLUMNS = ("sample_id", "clip_id", "dataset", "split", "passes", *CUT)


def recipe(context: Context, inputs: Mapping[str, Artifact]) -> Recipe:
    """Bucket reads what probe found."""
    return Recipe(NAME, VERSION, context.config.bucket.hashed(), {"clips": inputs["probe"].content["clips"]})


def remaining(context: Context, inputs: Mapping[str, Artifact]) -> tuple[int, int, str]:
    """Return (done, total, unit) of the work at hand."""
    return 0, inputs["probe"].counts["out"], "clips"


def run(context: Context, inputs: Mapping[str, Artifact]) -> Artifact:
    """Write `clips.parquet` (one row per window) and `rejects.parquet`.

    Raises:
        ConfigError: `eval_sources` names a source that does not exist.
        RefusedError: one split would be empty.
    """
    draft = Draft(context.store, recipe(context, inputs), forced=bool(context.salt))
    config = context.config.bucket
    clips = read_table(context.store, inputs["probe"], "clips.parquet")
    place = _placer(config)
    rows: list[dict[str, Any]] = []
    rejects: list[dict[str, Any]] = []
    for clip in clips.to_pylist():
        row = {**clip, "stage": NAME, **place(clip["width"], clip["height"], clip["num_frames"])}
        if "reason" in row:
            rejects.append(row)
            continue
        row["sample_id"] = f"{clip['clip_id']}-{row['start_frame']:06d}"
        row["split"] = split_of(clip["source_id"], config)
        rows.append(row)
    windows, refused = table_of(rows, WINDOWS), table_of(rejects, REJECTS)
    draft.add("clips.parquet", to_parquet(windows))
    draft.add("rejects.parquet", to_parquet(refused))
    if rows:  # with none left, the refusals are what there is to say
        _check_sources(config, {clip["source_id"] for clip in rows}, any_source=clips.column("source_id").to_pylist())
        _check_splits(config, rows)
    return draft.commit(
        content={
            "windows": content_digest(windows, WINDOW_COLUMNS),
            "members": content_digest(windows, ("clip_id", "split")),
        },
        counts=count_rejects(clips.num_rows, windows.num_rows, refused),
        facts={
            "datasets": refused_by_dataset(clips.column("dataset").to_pylist(), refused),
            "buckets": _tally(rows, "bucket"),
            "sources": len({row["source_id"] for row in rows}),
        },
    )


def split_of(source_id: str, config: BucketConfig) -> str:
    """Return "eval" or "train": by name, else by a hash of the source, so that growing the data moves nobody."""
    if source_id in config.eval_sources:
        return "eval"
    digest = hashlib.blake2b(f"{config.split_seed}\0{source_id}".encode(), digest_size=8).digest()
    return "eval" if int.from_bytes(digest, "big") / 2**64 < config.eval_fraction else "train"


def _placer(config: BucketConfig) -> Any:
    """Return a function (width, height, num_frames) -> bucket and window, or a refusal."""
    shapes = config.shapes

    @cache  # a million clips have a few hundred distinct shapes
    def place(width: int, height: int, num_frames: int) -> dict[str, Any]:
        bucket = nearest(width, height, num_frames, shapes, allow_upscale=config.allow_upscale)
        if bucket is None:
            shortest = min(shape.num_frames for shape in shapes)
            return {"reason": Reason.TOO_SHORT, "detail": f"{num_frames} frames; the shortest bucket needs {shortest}"}
        if not config.allow_upscale and upscales(width, height, bucket):
            return {
                "reason": Reason.TOO_SMALL,
                "detail": f"{width}x{height} pixels (width x height) would have to be upscaled for {bucket}",
            }
        left, top, used_width, used_height = covering_box(width, height, bucket)
        return {
            "bucket": str(bucket),
            "start_frame": _start(config, num_frames, bucket),
            "window_fps": 0.0,
            "crop_left": left,
            "crop_top": top,
            "crop_width": used_width,
            "crop_height": used_height,
            "passes": 1,
        }

    return place


def _start(config: BucketConfig, num_frames: int, bucket: Bucket) -> int:
    return 0 if config.window == "head" else (num_frames - bucket.num_frames) // 2


def _check_sources(config: BucketConfig, kept: set[str], *, any_source: list[str]) -> None:
    known = sorted(set(any_source))
    for name in config.eval_sources:
        if name not in kept:
            near = difflib.get_close_matches(name, known, n=1)
            what = "all its clips were refused" if name in known else "no clip has it"
            left = ", ".join(sorted(kept)[:8])
            hint = f"; did you mean {near[0]}?" if near and name not in known else f"; there are {left}"
            raise ConfigError(f"bucket.eval_sources: source {name!r}: {what}{hint}")


def _check_splits(config: BucketConfig, rows: list[dict[str, Any]]) -> None:
    splits = Counter(row["split"] for row in rows)
    sources = len({row["source_id"] for row in rows})
    for split in ("train", "eval"):
        if not splits[split]:
            if sources < 2:
                fix = "at least two sources are needed, one for each split"
            elif split == "eval":
                fix = "raise bucket.eval_fraction, or name sources in bucket.eval_sources"
            else:
                fix = "lower bucket.eval_fraction, or name fewer sources in bucket.eval_sources"
            raise RefusedError(
                f"bucket: the {split} split is empty: {len(rows)} clips, {sources} sources, "
                f"eval_fraction {config.eval_fraction:g}; {fix}"
            )


def _tally(rows: list[dict[str, Any]], key: str) -> dict[str, dict[str, int]]:
    counted = Counter((row[key], row["split"]) for row in rows)
    names = sorted({name for name, _ in counted})
    return {name: {split: counted[name, split] for split in ("train", "eval")} for name in names}
