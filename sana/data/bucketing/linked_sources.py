"""Linked sources: those that share a content, so that a split may not divide them."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Codes = NDArray[np.integer]


def codes_of(column: pa.ChunkedArray) -> tuple[Codes, pa.Array]:
    """Return the number of each row's value, by first occurrence, int32 [rows], and the distinct values."""
    coded = column.dictionary_encode().combine_chunks()
    return coded.indices.to_numpy(), coded.dictionary


def link_sources(sources: Codes, digests: pa.ChunkedArray, num_sources: int) -> Codes:
    """Return the group of each source: int64 [sources], the smallest source in it.

    Groups are the connected components of sources and contents: two clips of one source, or with equal digests, are in
    one group. `sources`: each clip's source, 0 ... num_sources - 1.
    """
    groups = np.arange(num_sources)
    contents, distinct = codes_of(digests)
    if len(distinct) == len(sources):
        return groups
    shared = np.flatnonzero(np.bincount(contents)[contents] > 1)
    shared = shared[np.argsort(contents[shared], kind="stable")]
    members, of_contents = sources[shared], contents[shared]
    starts = np.flatnonzero(np.diff(of_contents, prepend=-1))
    sizes = np.diff(starts, append=len(members))
    while True:
        found = groups[members]
        least = np.repeat(np.minimum.reduceat(found, starts), sizes)  # of the groups that share the content
        if np.array_equal(found, least):
            return groups
        np.minimum.at(groups, found, least)
        while not np.array_equal(up := groups[groups], groups):  # each source points to the end of its chain
            groups = up
