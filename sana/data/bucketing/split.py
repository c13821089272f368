"""The split: which sources are held out for the eval loss."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sana.config.pipeline import Config
from sana.data.bucketing.holdout import rows_by_pattern
from sana.data.bucketing.linked_sources import Codes, codes_of, link_sources
from sana.data.bucketing.windows import Ints

_SLICE = 2**18  # source names that are Python objects at once

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Splits:
    """The split of each clip. Sources that share a content, and all clips of one source, are one group, never divided.

    Groups have numbers; not every number is of a group that has clips.
    """

    is_eval: Flags  # [clips]
    groups: Codes  # [clips], the group of each
    held: Flags  # [groups], whether it is held out; a role may say otherwise of single clips, which is an error
    position: NDArray[np.float64]  # [groups], in [0, 1): held out by hash where below eval_fraction
    divisible: Flags  # [groups], whether it has clips that are not rejected, and neither a role nor a name decides
    named: Mapping[str, Ints]  # rows of clips that each pattern of bucket.holdout names


def assign_splits(clips: pa.Table, config: Config, kept: Flags) -> Splits:
    """Return the split of every clip; `kept`: whether it gives samples, bool [clips].

    The roles of a group's data sets decide: train or eval of all of it. Of a group that has none, `bucket.holdout`
    does, or a hash of its first source, by order of the data sets and then clip_id: so new data of later data sets
    never moves it. A split that would stay empty gets the one group that is nearest to it by that hash.
    """
    datasets = config.download.enabled
    sources, names = codes_of(clips["source_id"])
    of_sources = link_sources(sources, clips["digest"], len(names))
    groups = of_sources[sources]
    of_datasets = pc.index_in(clips["dataset"], value_set=pa.array([dataset.id for dataset in datasets])).to_numpy()
    roles = np.array([dataset.role for dataset in datasets])[of_datasets]
    named = rows_by_pattern(clips, config.bucket.holdout)

    def having(rows: Flags | Ints) -> Flags:
        found = np.zeros(len(names), np.bool_)
        found[groups[rows]] = True
        return found

    by_name = having(np.concatenate([np.zeros(0, np.int64), *named.values()]))
    trained, held = having(roles == "train"), having(roles == "eval")
    divisible = having(kept & (roles == "split")) & ~trained & ~held & ~by_name
    position = _positions(names, _first_sources(clips, of_datasets, sources, of_sources), config.bucket.split_seed)
    by_hash = _by_hash(
        position,
        divisible,
        config.bucket.eval_fraction,
        train_elsewhere=bool(np.any(having(kept) & trained)),
        eval_elsewhere=bool(np.any(having(kept) & (held | by_name))),
        fill_eval=not config.bucket.holdout and all(dataset.role != "eval" for dataset in datasets),
    )
    of_groups = held | (~trained & (by_name | by_hash))
    is_eval = np.where(roles == "split", of_groups[groups], roles == "eval")
    return Splits(is_eval, groups, of_groups, position, divisible, named)


def _first_sources(clips: pa.Table, of_datasets: Codes, sources: Codes, of_sources: Codes) -> Codes:
    """Return, at each group's number, its source that comes first, by data set and then clip_id: int64 [sources]."""
    first = np.arange(len(of_sources))
    linked = np.flatnonzero((np.bincount(of_sources) > 1)[of_sources[sources]])
    if len(linked):
        keys = pa.table({"dataset": of_datasets[linked], "clip_id": clips["clip_id"].take(pa.array(linked))})
        order = pc.sort_indices(keys, sort_keys=[("dataset", "ascending"), ("clip_id", "ascending")]).to_numpy()
        members = sources[linked][order]
        groups, at = np.unique(of_sources[members], return_index=True)
        first[groups] = members[at]
    return first


def _positions(names: pa.Array, sources: Codes, seed: int) -> NDArray[np.float64]:
    """Return a hash of each of these sources' names, in [0, 1): float64 [sources]."""
    salt = hashlib.blake2b(f"{seed}\0".encode(), digest_size=8)
    hashes = np.zeros(len(sources), np.uint64)
    for start in range(0, len(sources), _SLICE):
        texts = names.take(pa.array(sources[start : start + _SLICE])).to_pylist()
        hashes[start : start + _SLICE] = np.fromiter((_hash(salt, text) for text in texts), np.uint64, len(texts))
    # frozen: a 64-bit integer over 2**64 is rounded to float64 before it is compared
    return hashes.astype(np.float64) / 2.0**64


def _hash(salt: "hashlib.blake2b", name: str) -> int:
    digest = salt.copy()
    digest.update(name.encode())
    return int.from_bytes(digest.digest(), "big")


def _by_hash(
    position: NDArray[np.float64],
    divisible: Flags,
    eval_fraction: float,
    *,
    train_elsewhere: bool,
    eval_elsewhere: bool,
    fill_eval: bool,
) -> Flags:
    """Return which groups are held out by hash: bool [groups].

    `train_elsewhere`, `eval_elsewhere`: whether other groups give samples of that split; `fill_eval`: whether the eval
    split depends on the hash alone.
    """
    held = position < eval_fraction
    of = np.flatnonzero(divisible)
    if not eval_fraction or not len(of):
        return held
    if fill_eval and not held[of].any() and (len(of) > 1 or train_elsewhere):
        held[of[np.argmin(position[of])]] = True
    elif held[of].all() and not train_elsewhere and (len(of) > 1 or eval_elsewhere):
        held[of[np.argmax(position[of])]] = False
    return held
