"""`bucket.holdout`: the clips that are held out by the name of their file or source."""

import re
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sana.data.bucketing.windows import Ints

_GLOB = re.compile(r"[*?\[]")
_PARTS = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}


def rows_by_pattern(clips: pa.Table, patterns: Sequence[str]) -> Mapping[str, Ints]:
    """Return the rows of clips that each pattern names: int64, ascending.

    A pattern is a source_id, a path in its data set or a file's name; where it is none of them it may be a glob of one:
    `*` and `?` stand for anything but /, `**` for anything. Unicode normal forms are equal.
    """
    if not patterns:
        return {}
    columns = name_columns(clips)
    exact = pa.array(dict.fromkeys(_plain(pattern) for pattern in patterns), pa.string())
    number = {plain: i for i, plain in enumerate(exact.to_pylist())}  # equal after normalising: one number
    found: dict[str, list[Ints]] = {pattern: [] for pattern in patterns}
    for column in columns:
        codes = pc.fill_null(pc.index_in(column, value_set=exact), -1).to_numpy()
        rows = np.flatnonzero(codes >= 0)
        rows = rows[np.argsort(codes[rows], kind="stable")]
        bounds = np.searchsorted(codes[rows], np.arange(len(exact) + 1))
        for pattern in patterns:
            i = number[_plain(pattern)]
            found[pattern].append(rows[bounds[i] : bounds[i + 1]])
    for pattern in patterns:
        if not any(map(len, found[pattern])) and _GLOB.search(pattern):
            found[pattern] = [_matches(column, _plain(pattern)) for column in columns]
    return {pattern: np.unique(np.concatenate(rows)) for pattern, rows in found.items()}


def name_columns(clips: pa.Table) -> tuple[pa.ChunkedArray, pa.ChunkedArray, pa.ChunkedArray]:
    """Return what a clip may be named by: its source_id, its path and its file's name, in Unicode's composed form."""
    sources, paths = (_composed(clips[name]) for name in ("source_id", "path"))
    return sources, paths, pc.replace_substring_regex(paths, pattern="^.*/", replacement="")


def _composed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Normalise to NFC. In Python: Arrow's own `utf8_normalize` decomposes, whatever form it is asked for."""
    odd = pc.invert(pc.string_is_ascii(column))
    texts = [unicodedata.normalize("NFC", text) for text in column.filter(odd).to_pylist()]
    return pc.replace_with_mask(column, odd.combine_chunks(), pa.array(texts, pa.string())) if texts else column


def _plain(pattern: str) -> str:
    return unicodedata.normalize("NFC", pattern).removeprefix("./")


def _matches(column: pa.ChunkedArray, glob: str) -> Ints:
    try:
        return np.flatnonzero(pc.match_substring_regex(column, _regex_of(glob)).to_numpy())
    except pa.ArrowInvalid:  # such as the range [z-a], which no name can match
        return np.zeros(0, np.int64)


def _regex_of(glob: str) -> str:
    """Translate a glob to a regular expression of RE2. A bracket that nothing closes stands for itself."""
    parts = re.findall(r"\*\*/|\*+|\?|\[[!^]?\]?[^\]]*\]|.", glob, re.DOTALL)
    return "(?s)^" + "".join(_PARTS.get(part) or _part(part) for part in parts) + "$"


def _part(part: str) -> str:
    if len(part) == 1:
        return re.escape(part)
    if part.startswith("*"):
        return ".*"
    negated = part[1] in "!^"
    members = re.sub(r"([\\^\[\]])", r"\\\1", part[1 + negated : -1])
    return f"[{'^' if negated else ''}{members}]"
