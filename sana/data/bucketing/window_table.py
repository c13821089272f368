"""The window table: every clip's bucket, windows, crop and split, from what probe found. Opens no video.

A pure function of the rows and the config: the order of clips or buckets does not matter. Columns over all clips are
numpy arrays; tables are made slice by slice, so that memory beside them does not grow with the number of clips.
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
from sana.data.bucketing.assignment import CODING, REJECTIONS, AssignedClips, ClipShapes, assign_buckets, crop_boxes
from sana.data.bucketing.small_buckets import handle_small_buckets
from sana.data.bucketing.split import Splits, assign_splits
from sana.data.bucketing.treatments import rejection_of, treat_clips
from sana.data.bucketing.windows import Ints, available_frames, choose_windows, covered_frames, seeds_of
from sana.data.schemas import PROBED, REJECTS, TREATMENTS, WINDOWS
from sana.data.tables import count_rejects
from sana.facts import BucketFacts, BucketSummary

_SLICE_WINDOWS = 2**18  # rows made at once


@dataclass(frozen=True)
class WindowTable:
    """What the bucket stage writes; `counts` and `facts` are those of its artifact."""

    windows: pa.Table  # WINDOWS, one row per sample
    rejects: pa.Table  # REJECTS
    counts: Counts
    facts: BucketFacts
    kept: NDArray[np.bool_]  # [clips], whether a clip gives samples
    splits: Splits


def make_window_table(clips: pa.Table, config: Config) -> WindowTable:
    """Return the windows of all clips, and the rejected clips. `clips` has the columns PROBED."""
    assigned, splits = _assign(clips, config)
    handled = handle_small_buckets(config.bucket, assigned)
    assigned = handled.assigned
    counters = _BucketCounters(len(assigned.buckets))
    windows, rejects = [WINDOWS.empty_table()], [REJECTS.empty_table()]
    step = max(1, _SLICE_WINDOWS // max(rules.windows_per_clip for rules in assigned.rules))
    for start in range(0, clips.num_rows, step):
        part = clips.slice(start, step).select(PROBED.names).combine_chunks()
        windows.append(_windows(part, start, assigned, handled.draws_per_epoch, counters))
        rejects.append(_rejects(part, start, assigned))
    kept = assigned.kept
    all_windows, all_rejects = pa.concat_tables(windows), pa.concat_tables(rejects)
    counts = count_rejects(value_counts(clips["dataset"]), int(kept.sum()), all_rejects)
    frames = int(assigned.available[kept].sum())
    facts = BucketFacts(
        buckets=counters.summaries(
            assigned.buckets, np.bincount(assigned.bucket_codes[kept], minlength=len(assigned.buckets))
        ),
        sources=int(np.count_nonzero(np.bincount(splits.groups[kept]))),
        small_buckets=handled.small_buckets,
        frames=frames,
        frames_used=counters.frames_used,
        frames_dropped=frames - counters.frames_used,
        treatments=assigned.treated.counts(kept),
        untreated=assigned.treated.untreated_counts(kept),
    )
    counts = replace(counts, num_samples=all_windows.num_rows)
    return WindowTable(all_windows, all_rejects, counts, facts, kept, splits)


def _assign(clips: pa.Table, config: Config) -> tuple[AssignedClips, Splits]:
    """Give every clip its rules, bucket and split; the split also with what it was decided by."""
    datasets = {dataset.id: dataset for dataset in config.download.enabled}
    # an unknown data set would be null, hence an error below
    names = pc.index_in(clips["dataset"], value_set=pa.array(list(datasets))).to_numpy()
    of_datasets = [config.rules_of(dataset) for dataset in datasets.values()]
    distinct = tuple(rules for number, rules in enumerate(of_datasets) if rules not in of_datasets[:number])
    rules_codes = np.array([distinct.index(rules) for rules in of_datasets], np.int64)[names]
    buckets = tuple(sorted({bucket for rules in distinct for bucket in rules.shapes}))
    width, height, num_frames = (clips[name].to_numpy().astype(np.int64) for name in ("width", "height", "num_frames"))
    available, bucket_codes, rejection_codes = (np.zeros(len(rules_codes), np.int64) for _ in range(3))
    frames = available.copy()
    for rules_code, rules in enumerate(distinct):
        rows = np.flatnonzero(rules_codes == rules_code)
        available[rows] = available_frames(num_frames[rows], clips["duration_s"].to_numpy()[rows], rules.target_fps)
        frames[rows] = available[rows]
        if rules.max_frames is not None and rules.too_long == "trim":
            frames[rows] = np.minimum(available[rows], rules.max_frames)
        shapes = ClipShapes(width[rows], height[rows], frames[rows])
        index, rejection_codes[rows] = assign_buckets(rules, shapes, rules.shapes)
        bucket_codes[rows] = np.array([buckets.index(bucket) for bucket in rules.shapes] + [-1])[index]
    treated = treat_clips(clips, distinct, rules_codes)
    rejection_codes[treated.is_rejected] = CODING  # whatever its shape
    splits = assign_splits(clips, config, rejection_codes == 0)
    shapes = ClipShapes(width, height, frames)
    return AssignedClips(
        distinct, rules_codes, buckets, shapes, available, bucket_codes, rejection_codes, splits.is_eval, treated
    ), splits


def _windows(
    part: pa.Table, first: int, assigned: AssignedClips, draws_per_epoch: Ints, counters: "_BucketCounters"
) -> pa.Table:
    """Return the windows of some clips: `part` has their rows, from row `first` of all clips on."""
    seeds = seeds_of(part["clip_id"])
    columns: list[dict[str, NDArray[Any]]] = []
    for rules_code, rules in enumerate(assigned.rules):
        rows = assigned.kept_rows(rules_code, first, first + part.num_rows)
        shapes, bucket_codes = assigned.shapes.take(rows), assigned.bucket_codes[rows]
        length, clip_seeds = assigned.lengths[bucket_codes], seeds[rows - first]
        clip, start = choose_windows(rules, shapes.frames, length, clip_seeds)
        box = crop_boxes(rules, shapes, bucket_codes, assigned.buckets, clip_seeds)
        counters.frames_used += int(covered_frames(clip, start, length[clip], len(rows)).sum())
        columns.append(
            {
                "row": rows[clip],
                "start_frame": start,
                "window_fps": np.full(len(clip), rules.target_fps or 0.0),
                **{
                    f"crop_{side}": edge[clip]
                    for side, edge in zip(("left", "top", "width", "height"), box, strict=True)
                },
            }
        )
    joined = {name: np.concatenate([column[name] for column in columns]) for name in columns[0]}
    order = np.argsort(joined["row"], kind="stable")  # in the order of the clips, starts ascending
    row = joined["row"][order]
    windows = {name: values[order] for name, values in joined.items() if name != "row"}
    bucket_codes, is_eval = assigned.bucket_codes[row], assigned.is_eval[row]
    counters.add(assigned, row, windows)
    facts = part.take(pa.array(row - first))
    start = pc.utf8_lpad(pc.cast(pa.array(windows["start_frame"]), pa.string()), 6, "0")
    table = {
        **{name: facts[name] for name in PROBED.names},
        **{name: pa.array(values) for name, values in windows.items()},
        "sample_id": pc.binary_join_element_wise(facts["clip_id"], start, "-"),
        "bucket": pa.array([str(bucket) for bucket in assigned.buckets]).take(pa.array(bucket_codes)),
        "split": pa.array(["train", "eval"]).take(pa.array(is_eval.astype(np.int8))),
        "draws_per_epoch": pa.array(np.where(is_eval, 1, draws_per_epoch[bucket_codes])),
        "treatment": pa.array(TREATMENTS).take(pa.array(assigned.treated.treatment_codes[row])),
    }
    return pa.table([pc.cast(table[field.name], field.type) for field in WINDOWS], schema=WINDOWS)


def _rejects(part: pa.Table, first: int, assigned: AssignedClips) -> pa.Table:
    """Return the rejected of some clips: `part` has their rows, from row `first` of all clips on."""

    shortest = [min(bucket.num_frames for bucket in rules.shapes) for rules in assigned.rules]

    @cache  # many clips share few distinct rejections
    def explain(
        code: int, rules_code: int, width: int, height: int, frames: int, bucket_code: int, coding_code: int
    ) -> tuple[str, str]:
        rules, rejection = assigned.rules[rules_code], REJECTIONS[code]
        if code == CODING:
            rejection = rejection_of(assigned.treated.codings[coding_code], rules)
        assert rejection is not None
        rate = "" if rules.target_fps is None else f" at {rules.target_fps:g} fps"
        return rejection[0], rejection[1].format(
            rules=rules, size=f"{width}x{height} pixels (width x height)", frames=f"{frames} frames{rate}",
            bucket=assigned.buckets[bucket_code], shortest=shortest[rules_code],
        )  # fmt: skip

    rows = first + np.flatnonzero(assigned.rejection_codes[first : first + part.num_rows])
    shapes = assigned.shapes
    columns = (
        assigned.rejection_codes, assigned.rules_codes, shapes.width, shapes.height, assigned.available,
        assigned.bucket_codes, assigned.treated.coding_codes,
    )  # fmt: skip
    explained = [explain(*row) for row in zip(*(column[rows].tolist() for column in columns), strict=True)]
    facts = part.select(["clip_id", "dataset", "path"]).take(pa.array(rows - first))
    table = {
        **{name: facts[name] for name in facts.column_names},
        "stage": pa.array(["bucket"] * len(rows), pa.string()),
        "reason": pa.array([reason for reason, _ in explained], pa.string()),
        "detail": pa.array([detail for _, detail in explained], pa.string()),
    }
    return pa.table([table[name] for name in REJECTS.names], schema=REJECTS)


class _BucketCounters:
    """Sums per bucket, added up while windows are made, so that each is visited once."""

    def __init__(self, num_buckets: int) -> None:
        self.frames_used = 0
        self._sums = {name: np.zeros(num_buckets) for name in ("train", "eval", "lost", "upscaled")}

    def add(self, assigned: AssignedClips, row: Ints, windows: Mapping[str, NDArray[Any]]) -> None:
        """Count windows: their columns, and the row of the clip that each is of."""
        bucket_codes, is_eval = assigned.bucket_codes[row], assigned.is_eval[row]
        area = assigned.shapes.width[row] * assigned.shapes.height[row]
        width = np.array([bucket.width for bucket in assigned.buckets])[bucket_codes]
        for name, values in (
            ("train", ~is_eval),
            ("eval", is_eval),
            ("lost", 1 - windows["crop_width"] * windows["crop_height"] / area),
            ("upscaled", windows["crop_width"] < width * (1 - 1e-9)),
        ):
            self._sums[name] += np.bincount(bucket_codes, weights=values, minlength=len(self._sums[name]))

    def summaries(self, buckets: Iterable[Bucket], clips: Ints) -> dict[str, BucketSummary]:
        """Return a summary of each bucket that has samples; `clips` counts the clips of every bucket."""
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
