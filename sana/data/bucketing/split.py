"""The split: which sources are held out for the eval loss."""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sana.config.bucket import BucketConfig
from sana.config.pipeline import Config

_SLICE = 2**18  # source names that are Python objects at once


def assign_splits(clips: pa.Table, config: Config) -> tuple[NDArray[np.bool_], NDArray[np.integer]]:
    """Return, for each clip, whether it is held out for evaluation, and a number that is the same for equal sources.

    The role of its data set decides or, where that is `split`, its source.
    """
    datasets = config.download.enabled
    by_source, sources = _by_source(clips["source_id"], config.bucket)
    names = pc.index_in(clips["dataset"], value_set=pa.array([dataset.id for dataset in datasets])).to_numpy()
    roles = np.array([dataset.role for dataset in datasets])[names]
    return np.where(roles == "split", by_source, roles == "eval"), sources


def _by_source(sources: pa.ChunkedArray, config: BucketConfig) -> tuple[NDArray[np.bool_], NDArray[np.integer]]:
    """Return, for each row's source, whether it is held out, and its number.

    A source is held out by name or by a hash of it, so that new data never moves a source to the other split.
    """
    coded = sources.combine_chunks().dictionary_encode()
    num = len(coded.dictionary)
    named = frozenset(config.holdout_sources)
    salt = hashlib.blake2b(f"{config.split_seed}\0".encode(), digest_size=8)
    held = np.zeros(num, np.bool_)
    for start in range(0, num, _SLICE):
        names = coded.dictionary.slice(start, _SLICE).to_pylist()
        hashes = np.fromiter((_hash(salt, name) for name in names), np.uint64, len(names))
        # frozen: a 64-bit integer over 2**64 is rounded to float64 before it is compared
        held[start : start + _SLICE] = hashes.astype(np.float64) / 2.0**64 < config.eval_fraction
        if named:
            held[start : start + _SLICE] |= np.fromiter((name in named for name in names), np.bool_, len(names))
    codes = coded.indices.to_numpy()
    return held[codes], codes


def _hash(salt: "hashlib.blake2b", name: str) -> int:
    digest = salt.copy()
    digest.update(name.encode())
    return int.from_bytes(digest.digest(), "big")
