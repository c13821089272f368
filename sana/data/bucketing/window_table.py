"""Assignment: every clip's bucket, windows, crop and split, from what probe found. Opens no video.

A pure function of the rows and the config, whatever the order of clips or buckets. Columns over all clips are numpy;
tables are made slice by slice, so that what is held beside them does not grow with their number.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sana.arrow import value_counts
from sana.bucket import Bucket
from sana.config.pipeline import Config
from sana.counts import Counts
from sana.data.bucketing.assignment import REJECTIONS, Placed, Shapes, crop_boxes, place
from sana.data.bucketing.small_buckets import settle
from sana.data.bucketing.split import held_out
from sana.data.bucketing.windows import Ints, available_frames, choose_windows, covered_frames, seeds_of
from sana.data.schemas import PROBED, REJECTS, WINDOWS
from sana.data.tables import count_rejects
from sana.facts import BucketFacts, BucketSummary

_SLICE_WINDOWS = 2**18  # windows made at once


@dataclass(frozen=True)
class Assignment:
    """What the bucket stage writes; `counts` and `facts` are those of its artifact."""

    windows: pa.Table  # WINDOWS, one row per sample
    rejects: pa.Table  # REJECTS
    counts: Counts
    facts: BucketFacts


def assign(clips: pa.Table, config: Config) -> Assignment:
    """Return the samples of all clips and the clips that give none. `clips` has the columns PROBED."""
    placed, sources = _place(clips, config)
    settled = settle(config.bucket, placed)
    placed = settled.placed
    seen = _Tally(len(placed.buckets))
    windows, rejects = [WINDOWS.empty_table()], [REJECTS.empty_table()]
    step = max(1, _SLICE_WINDOWS // max(rules.windows_per_clip for rules in placed.rules))
    for start in range(0, clips.num_rows, step):
        part = clips.slice(start, step).select(PROBED.names).combine_chunks()
        windows.append(_windows(part, start, placed, settled.draws_per_epoch, seen))
        rejects.append(_rejects(part, start, placed))
    kept = placed.kept
    rejected = pa.concat_tables(rejects)
    table = pa.concat_tables(windows)
    counts = count_rejects(value_counts(clips["dataset"]), int(kept.sum()), rejected)
    frames = int(placed.available[kept].sum())
    facts = BucketFacts(
        buckets=seen.buckets(placed.buckets, np.bincount(placed.code[kept], minlength=len(placed.buckets))),
        sources=int(np.count_nonzero(np.bincount(sources[kept]))),
        small_buckets=settled.small,
        frames=frames,
        frames_used=seen.frames_used,
        frames_dropped=frames - seen.frames_used,
    )
    return Assignment(table, rejected, replace(counts, num_samples=table.num_rows), facts)


def _place(clips: pa.Table, config: Config) -> tuple[Placed, NDArray[np.integer]]:
    """Give every clip its rules, bucket and split; returns them and a number for each clip's source."""
    datasets = {dataset.id: dataset for dataset in config.download.enabled}
    names = pc.index_in(clips["dataset"], value_set=pa.array(list(datasets))).to_numpy()  # of an unknown one: an error
    own = [config.rules_of(dataset) for dataset in datasets.values()]
    rules = tuple(one for number, one in enumerate(own) if one not in own[:number])
    rule = np.array([rules.index(one) for one in own], np.int64)[names]
    buckets = tuple(sorted({bucket for one in rules for bucket in one.shapes}))
    width, height, num_frames = (clips[name].to_numpy().astype(np.int64) for name in ("width", "height", "num_frames"))
    available, code, rejection = (np.zeros(len(rule), np.int64) for _ in range(3))
    frames = available.copy()
    for number, one in enumerate(rules):
        rows = np.flatnonzero(rule == number)
        available[rows] = available_frames(num_frames[rows], clips["duration_s"].to_numpy()[rows], one.target_fps)
        frames[rows] = available[rows]
        if one.max_frames is not None and one.too_long == "trim":
            frames[rows] = np.minimum(available[rows], one.max_frames)
        index, rejection[rows] = place(one, Shapes(width[rows], height[rows], frames[rows]), one.shapes)
        code[rows] = np.array([buckets.index(bucket) for bucket in one.shapes] + [-1])[index]
    is_eval, sources = held_out(clips, config)
    return Placed(rules, rule, buckets, Shapes(width, height, frames), available, code, rejection, is_eval), sources


def _windows(part: pa.Table, first: int, placed: Placed, draws_per_epoch: Ints, seen: "_Tally") -> pa.Table:
    """Return the samples of some clips: `part` has their rows, the first of which is number `first` of all."""
    seeds = seeds_of(part["clip_id"])
    columns: list[dict[str, NDArray[Any]]] = []
    for number, rules in enumerate(placed.rules):
        mine = placed.rows_of(number, first, first + part.num_rows)
        shapes, code, some = placed.shapes.take(mine), placed.code[mine], seeds[mine - first]
        length = placed.lengths[code]
        clip, start = choose_windows(rules, shapes.frames, length, some)
        box = crop_boxes(rules, shapes, code, placed.buckets, some)
        seen.frames_used += int(covered_frames(clip, start, length[clip], len(mine)).sum())
        columns.append(
            {
                "row": mine[clip],
                "start_frame": start,
                "window_fps": np.full(len(clip), rules.target_fps or 0.0),
                **{
                    f"crop_{side}": edge[clip]
                    for side, edge in zip(("left", "top", "width", "height"), box, strict=True)
                },
            }
        )
    joined = {name: np.concatenate([column[name] for column in columns]) for name in columns[0]}
    order = np.argsort(joined["row"], kind="stable")  # as the clips came, starts ascending
    row = joined["row"][order]
    made = {name: values[order] for name, values in joined.items() if name != "row"}
    code, is_eval = placed.code[row], placed.is_eval[row]
    seen.add(placed, row, made)
    facts = part.take(pa.array(row - first))
    start = pc.utf8_lpad(pc.cast(pa.array(made["start_frame"]), pa.string()), 6, "0")
    table = {
        **{name: facts[name] for name in PROBED.names},
        **{name: pa.array(values) for name, values in made.items()},
        "sample_id": pc.binary_join_element_wise(facts["clip_id"], start, "-"),
        "bucket": pa.array([str(bucket) for bucket in placed.buckets]).take(pa.array(code)),
        "split": pa.array(["train", "eval"]).take(pa.array(is_eval.astype(np.int8))),
        "draws_per_epoch": pa.array(np.where(is_eval, 1, draws_per_epoch[code])),
    }
    return pa.table([pc.cast(table[field.name], field.type) for field in WINDOWS], schema=WINDOWS)


def _rejects(part: pa.Table, first: int, placed: Placed) -> pa.Table:
    """Return the rejections among some clips."""

    shortest = [min(bucket.num_frames for bucket in rules.shapes) for rules in placed.rules]

    @cache  # few distinct ones among many
    def explain(number: int, rule: int, width: int, height: int, frames: int, code: int) -> tuple[str, str]:
        rules, rejection = placed.rules[rule], REJECTIONS[number]
        assert rejection is not None
        rate = "" if rules.target_fps is None else f" at {rules.target_fps:g} fps"
        return rejection[0], rejection[1].format(
            rules=rules, size=f"{width}x{height} pixels (width x height)", frames=f"{frames} frames{rate}",
            bucket=placed.buckets[code], shortest=shortest[rule],
        )  # fmt: skip

    bad = first + np.flatnonzero(placed.rejection[first : first + part.num_rows])
    numbers = (placed.rejection, placed.rule, placed.shapes.width, placed.shapes.height, placed.available, placed.code)
    said = [explain(*row) for row in zip(*(column[bad].tolist() for column in numbers), strict=True)]
    facts = part.select(["clip_id", "dataset", "path"]).take(pa.array(bad - first))
    table = {
        **{name: facts[name] for name in facts.column_names},
        "stage": pa.array(["bucket"] * len(bad), pa.string()),
        "reason": pa.array([reason for reason, _ in said], pa.string()),
        "detail": pa.array([detail for _, detail in said], pa.string()),
    }
    return pa.table([table[name] for name in REJECTS.names], schema=REJECTS)


class _Tally:
    """What is counted per bucket while windows are made, so that they are looked at once."""

    def __init__(self, num_buckets: int) -> None:
        self.frames_used = 0
        self._sums = {name: np.zeros(num_buckets) for name in ("train", "eval", "lost", "upscaled")}

    def add(self, placed: Placed, row: Ints, made: Mapping[str, NDArray[Any]]) -> None:
        code, is_eval = placed.code[row], placed.is_eval[row]
        area = placed.shapes.width[row] * placed.shapes.height[row]
        width = np.array([bucket.width for bucket in placed.buckets])[code]
        for name, values in (
            ("train", ~is_eval),
            ("eval", is_eval),
            ("lost", 1 - made["crop_width"] * made["crop_height"] / area),
            ("upscaled", made["crop_width"] < width * (1 - 1e-9)),
        ):
            self._sums[name] += np.bincount(code, weights=values, minlength=len(self._sums[name]))

    def buckets(self, buckets: Iterable[Bucket], clips: Ints) -> dict[str, BucketSummary]:
        """Sum up each bucket that has samples."""
        found = {}
        for i, bucket in enumerate(buckets):
            train, held_out, lost, upscaled = (float(self._sums[name][i]) for name in self._sums)
            if num := train + held_out:
                found[str(bucket)] = BucketSummary(
                    train=int(train),
                    eval=int(held_out),
                    clips=int(clips[i]),
                    crop_loss=round(max(0.0, lost / num), 6),
                    upscaled=round(upscaled / num, 6),
                )
        return found
