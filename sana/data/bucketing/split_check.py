"""Whether training can come of an assignment, and if not, what to do. Messages name files, not hashes."""

import difflib
import unicodedata
from collections import Counter
from math import ceil, floor, log10

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sana.arrow import value_counts
from sana.config.pipeline import Config
from sana.data.bucketing.holdout import name_columns
from sana.data.bucketing.split import Flags, Splits
from sana.data.bucketing.window_table import WindowTable
from sana.errors import ConfigError, RejectedError
from sana.wording import counted

_MAX_COMPARED = 20_000  # names that a mistyped one is compared with
_MAX_NAMED = 8  # sources in a message


def check_splits(config: Config, clips: pa.Table, assigned: WindowTable) -> None:
    """Fail when no training can come of an assignment.

    Raises:
        ConfigError: `bucket.holdout` names nothing that could be held out, or roles put a source into both splits.
        RejectedError: one split is empty.
    """
    if assigned.windows.num_rows == 0:
        return  # the rejections are what there is to say
    _check_holdout(clips, assigned)
    _check_roles(config, clips, assigned)
    buckets = assigned.facts.buckets.values()
    for split in ("train", "eval"):
        if not any(one.train if split == "train" else one.eval for one in buckets):
            raise RejectedError(
                f"bucket: the {split} split is empty: {counted(assigned.counts.num_out, 'clip')}, "
                f"{counted(assigned.facts.sources, 'source')} are left; {_why_empty(config, clips, assigned, split)}"
            )


def split_notes(config: Config, clips: pa.Table, assigned: WindowTable) -> list[str]:
    """Return what the split does that `bucket.eval_fraction` alone would not."""
    splits, fraction = assigned.splits, config.bucket.eval_fraction
    moved = np.flatnonzero(splits.divisible & ((splits.position < fraction) != splits.held))
    notes = []
    for group in moved.tolist():
        held_out = bool(splits.held[group])
        one = _named(clips, (splits.groups == group) & assigned.kept)[0]
        what, done = ("none", "held out") if held_out else ("all", "trained on")
        notes.append(
            f"bucket.eval_fraction {fraction:g} alone would hold out {what} of {int(splits.divisible.sum())} sources; "
            f"so that neither split is empty, one is {done} all the same: {one}"
        )
    return notes


def _why_empty(config: Config, clips: pa.Table, assigned: WindowTable, split: str) -> str:
    """Say whether the clips of a split were rejected, or none was meant for it, and what to do."""
    splits = assigned.splits
    meant = clips.filter(pa.array(splits.is_eval == (split == "eval")))
    way = fraction_that_works(splits) if split == "eval" else ""
    other = f", or {way}" if way else ""
    if meant.num_rows:
        mine = pc.is_in(assigned.rejects["clip_id"], value_set=meant["clip_id"].combine_chunks())
        reasons = Counter(value_counts(assigned.rejects["reason"].filter(mine))).most_common(3)
        top = ", ".join(f"{num} {reason}" for reason, num in reasons)
        return (
            f"all {meant.num_rows} clips meant for it were rejected ({top}); fix them, or loosen the rules of "
            f"`bucket`{other}"
        )
    emptied = [dataset.where for dataset in config.download.enabled if dataset.role == split]
    if emptied:  # its role is this one, and no clip of it came here
        return (
            f"{', '.join(emptied)} with role: {split} came here without a clip, as all were rejected before; fix "
            f"them{other}"
        )
    if way:
        return f"bucket.eval_fraction is {config.bucket.eval_fraction:g}; {way}"
    if not splits.divisible.any():
        if split == "train":
            roles = ["role: eval"] if any(dataset.role == "eval" for dataset in config.download.enabled) else []
            by = " and ".join([*(["bucket.holdout"] if config.bucket.holdout else []), *roles])
            return f"all are held out by {by}, or share a source or a content with what is; hold out less, or add clips"
        return "all are in data sets of role: train, or share a source or a content with them; give one role: split"
    left = ", ".join(_named(clips, assigned.kept))
    return f"at least two sources are needed, one for each split, or a data set with role: {split}; there is {left}"


def fraction_that_works(splits: Splits) -> str:
    """Return how bucket.eval_fraction would hold out a source; empty where it cannot."""
    positions = np.sort(splits.position[splits.divisible])
    if len(positions) < 2:
        return ""
    for digits in range(2, 18):  # the shortest number above the first position that is below the last
        scale = 10.0 ** (digits - 1 - (floor(log10(positions[0])) if positions[0] else 0))
        fraction = ceil(positions[0] * scale) / scale
        if positions[0] < fraction <= positions[-1]:
            held = int(np.count_nonzero(positions < fraction))
            return f"bucket.eval_fraction {fraction:g} would hold out {held} of {len(positions)} sources"
    return ""


def _check_holdout(clips: pa.Table, assigned: WindowTable) -> None:
    """Every pattern of `bucket.holdout` must name clips that are held out and of which some are left."""
    problems = []
    for pattern, rows in assigned.splits.named.items():
        held = rows[assigned.splits.is_eval[rows]]
        if not len(rows):
            near = _nearest(clips, pattern)
            left = ", ".join(_named(clips, assigned.kept))
            known = f"did you mean {near}?" if near else f"there are {left}"
            what = f"names no file, path or source that is not rejected; {known}"
        elif not len(held):
            what = (
                f"names {_named(clips, rows)[0]}, which is trained on: its data set has role: train, or one that has "
                "shares it"
            )
        elif not assigned.kept[held].any():
            reasons = value_counts(assigned.rejects["reason"].filter(_of_clips(assigned.rejects, clips, held)))
            what = f"all its clips were rejected ({', '.join(f'{num} {name}' for name, num in reasons.items())})"
        else:
            continue
        problems.append(f"bucket.holdout: {pattern!r} {what}")
    if problems:
        raise ConfigError("\n  ".join(problems))


def _of_clips(rejects: pa.Table, clips: pa.Table, rows: np.ndarray) -> pa.ChunkedArray:
    return pc.is_in(rejects["clip_id"], value_set=clips["clip_id"].take(pa.array(rows)).combine_chunks())


def _nearest(clips: pa.Table, pattern: str) -> str:
    """Return the name of a clip that a mistyped one may mean, or nothing."""
    sources, paths, files = (pc.unique(column) for column in name_columns(clips))
    hashes = pc.is_in(sources, value_set=clips["clip_id"].combine_chunks())  # a clip's own is no name
    names = pa.chunked_array([sources.filter(pc.invert(hashes)), paths if "/" in pattern else files])
    if len(names) > _MAX_COMPARED:
        names = names.filter(pc.starts_with(names, pattern=pattern[:2], ignore_case=True))
    known = {_folded(name): name for name in names.slice(0, _MAX_COMPARED).to_pylist()}
    near = difflib.get_close_matches(_folded(pattern), known, n=1)
    return known[near[0]] if near else ""


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _named(clips: pa.Table, rows: Flags | np.ndarray) -> list[str]:
    """Return the first few sources of some clips: by their name or, where that is the clip's own hash, by its path."""
    some = clips.select(["dataset", "source_id", "clip_id", "path"])
    some = some.take(pa.array(np.flatnonzero(rows) if rows.dtype == np.bool_ else rows))
    names = pc.if_else(pc.equal(some["source_id"], some["clip_id"]), some["path"], some["source_id"])
    found = pc.unique(names)
    first = found.take(pc.array_sort_indices(found)[:_MAX_NAMED]).to_pylist()
    return [*first, *(["..."] if len(found) > _MAX_NAMED else [])]


def _check_roles(config: Config, clips: pa.Table, assigned: WindowTable) -> None:
    """What data sets share must not be trained on by the role of one and held out by that of another."""
    if all(dataset.role == "split" for dataset in config.download.enabled):
        return  # a group has one split
    groups, is_eval, kept = assigned.splits.groups, assigned.splits.is_eval, assigned.kept
    trained, held = (np.zeros(len(assigned.splits.position), np.bool_) for _ in range(2))
    trained[groups[kept & ~is_eval]] = True
    held[groups[kept & is_eval]] = True
    both = np.flatnonzero(trained & held)
    if not len(both):
        return
    first = kept & (groups == both[0])
    sides = [np.flatnonzero(first & side)[0] for side in (~is_eval, is_eval)]
    one, other = (f"{clips['path'][row].as_py()} of {clips['dataset'][row].as_py()}" for row in sides)
    same = clips["digest"][sides[0]] == clips["digest"][sides[1]]
    why = "they are the same content" if same else "they are linked by source_id or content"
    raise ConfigError(
        f"download.datasets: roles put {counted(len(both), 'source')} into both splits: {one} is trained on and "
        f"{other} held out, and {why}, so training would see what the eval loss is measured on. Give the data sets "
        "role: split, which keeps equal contents together, or remove the files from one of them"
    )
