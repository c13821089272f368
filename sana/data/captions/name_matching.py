"""Which file a name means when none is spelled like it: the only one that is equal after normalising.

Names are compared as a whole, folders too. First in Unicode normal form NFC, without blanks at the ends of their parts,
with `%20` decoded, "/" for a backslash and an ending in any case; then with a missing ending; then in any case. All
work is on Arrow columns, and only for the names that fit no file exactly.
"""

from collections.abc import Iterator
from itertools import product
from unicodedata import normalize
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sana.data.sources.listing import VIDEO_SUFFIXES

_BLANK = r"[\s\x{0085}\x{00a0}\x{1680}\x{2000}-\x{200b}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}\x{feff}]*"
_SUFFIX = r"(?i)(?P<suffix>" + "|".join(suffix.replace(".", r"\.") for suffix in VIDEO_SUFFIXES) + rf"){_BLANK}\z"


def normalized(names: pa.Array, *, ignore_case: bool = False) -> pa.Array:
    """Return names (large strings) in their normal form, without regard to endings."""
    names = _decoded(names)
    names = pc.replace_substring(names, "\\", "/")
    names = pc.utf8_normalize(names, form="NFC")
    names = pc.replace_substring_regex(names, rf"{_BLANK}/(?:\.?/)*{_BLANK}", "/")
    names = pc.replace_substring_regex(names, rf"\A{_BLANK}(?:\./)*|{_BLANK}\z", "")
    return pc.utf8_lower(names) if ignore_case else names


def without_suffix(names: pa.Array) -> pa.Array:
    """Return names without the ending of a video, in any case."""
    return pc.replace_substring_regex(names, _SUFFIX, "")


def has_suffix(names: pa.Array) -> pa.Array:
    """Return whether each name has the ending of a video, in any case."""
    return pc.match_substring_regex(names, _SUFFIX)


def match_stems(stems: pa.Array, texts: pa.Array) -> np.ndarray:
    """Return int64 [stems]: the one of the `texts`, paths without `.txt`, that a video's stem means, or -1.

    A text belongs to one stem. `clip.mp4.txt` fits clip.mp4.
    """
    found = np.full(len(stems), -1)
    for drop_suffix, ignore_case in ((False, False), (True, False), (True, True)):
        left, free = np.flatnonzero(found < 0), np.setdiff1d(np.arange(len(texts)), found)
        if not len(left) or not len(free):
            break
        candidates = texts.take(pa.array(free))
        candidates = without_suffix(candidates) if drop_suffix else candidates
        matched = _sole(
            normalized(stems.take(pa.array(left)), ignore_case=ignore_case),
            normalized(candidates, ignore_case=ignore_case),
            both_ways=True,
        )
        found[left] = np.where(matched >= 0, free[matched], -1)
    return found


def match_videos(names: pa.Array, videos: pa.Array, is_named: np.ndarray) -> np.ndarray:
    """Return int64 [names]: the one of the paths `videos` that a name means, or -1. The names are distinct.

    Where only the ending or the case differs, a video that `is_named` (bool [videos]) exactly by another name, or
    that several of the names would mean, is not taken.
    """
    found = np.full(len(names), -1)
    for drop_suffix, ignore_case in ((False, False), (True, False), (False, True), (True, True)):
        is_coarse = drop_suffix or ignore_case
        left = found < 0
        if drop_suffix:
            left &= ~has_suffix(names).to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(left)
        free = np.setdiff1d(np.flatnonzero(~is_named), found) if is_coarse else np.arange(len(videos))
        if not len(rows) or not len(free):
            continue
        written, candidates = names.take(pa.array(rows)), videos.take(pa.array(free))
        matched = _sole(
            _video_keys(written, drop_suffix, ignore_case),
            _video_keys(candidates, drop_suffix, ignore_case),
            both_ways=is_coarse,
        )
        found[rows] = np.where(matched >= 0, free[matched], -1)
    return found


def videos_of_paths(paths: pa.Array, videos: pa.Array) -> np.ndarray:
    """Return int64 [rows]: the video of each path, or -1.

    A path that no video has means the only one that is equal after normalising (`match_videos`).
    """
    exact = pc.fill_null(pc.index_in(paths, videos), -1)
    found: np.ndarray = exact.to_numpy(zero_copy_only=False).astype(np.int64)
    left = np.flatnonzero((found < 0) & paths.is_valid().to_numpy(zero_copy_only=False))
    if not len(left):
        return found
    is_named = np.zeros(len(videos), dtype=bool)
    is_named[found[found >= 0]] = True
    distinct = pc.dictionary_encode(paths.take(pa.array(left)))
    names = distinct.dictionary
    matched = match_videos(names, videos, is_named)
    found[left] = matched[distinct.indices.to_numpy(zero_copy_only=False)]
    return found


def nearest(names: pa.Array, files: pa.Array) -> pa.Array:
    """Return for each name a file that may be meant, or null.

    Its letters and digits are the same but for accents and case; or it is the only one of that name, in another folder.
    """
    near = pc.take(files, pc.index_in(_loose(names), _loose(files)))
    left = np.flatnonzero(near.is_null().to_numpy(zero_copy_only=False))
    if not len(left):
        return near
    elsewhere = _sole(_loose(_last_part(names.take(pa.array(left)))), _loose(_last_part(files)), both_ways=False)
    found = np.full(len(names), -1)
    found[left] = elsewhere
    return pc.coalesce(near, pc.take(files, pa.array(found, mask=found < 0)))


def _last_part(names: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(names, r"(?s)\A.*[/\\]", "")


def spellings(path: str) -> Iterator[str]:
    """Yield other spellings of a path that may be meant by it, for a place that cannot be listed."""
    slashes = path.replace("\\", "/")
    stripped = "/".join(part.strip() for part in slashes.split("/"))
    forms = [form for text in (slashes, stripped) for form in (normalize("NFC", text), normalize("NFD", text))]
    names = dict.fromkeys([slashes, stripped, *forms, *(unquote(form) for form in forms)])
    ends = ("",) if path.lower().endswith(VIDEO_SUFFIXES) else ("", *VIDEO_SUFFIXES)
    yield from (name + end for name, end in product(names, ends) if name + end != path)


def _video_keys(names: pa.Array, drop_suffix: bool, ignore_case: bool) -> pa.Array:
    stems = normalized(without_suffix(names), ignore_case=ignore_case)
    if drop_suffix:
        return stems
    suffixes = pc.struct_field(pc.extract_regex(names, _SUFFIX), "suffix")
    return pc.binary_join_element_wise(
        stems, pc.utf8_lower(pc.fill_null(suffixes, "")), pa.scalar("", pa.large_string())
    )


def _sole(wanted: pa.Array, among: pa.Array, *, both_ways: bool) -> np.ndarray:
    """Return int64 [wanted]: where the value stands among the others, or -1 if not just once."""
    once = _once(among)
    found = pc.fill_null(pc.index_in(wanted, among), -1).to_numpy(zero_copy_only=False).astype(np.int64)
    found[found >= 0] = np.where(once[found[found >= 0]], found[found >= 0], -1)
    return np.where(_once(wanted), found, -1) if both_ways else found


def _once(values: pa.Array) -> np.ndarray:
    codes = pc.dictionary_encode(values).indices.to_numpy(zero_copy_only=False)
    return np.bincount(codes)[codes] == 1 if len(codes) else np.zeros(0, dtype=bool)


def _decoded(names: pa.Array) -> pa.Array:
    """Decode `%20` and the like, in the few names that have one."""
    has = pc.match_substring_regex(names, "%[0-9A-Fa-f]{2}")
    if not pc.any(has).as_py():
        return names
    decoded = [unquote(name, errors="replace") for name in names.filter(has).to_pylist()]
    return pc.replace_with_mask(names, has, pa.array(decoded, pa.large_string()))


def _loose(names: pa.Array) -> pa.Array:
    names = pc.replace_substring_regex(names, r"[^\pL\pN]+\z", "")  # quotes and dots after the ending
    plain = pc.utf8_normalize(normalized(without_suffix(names)), form="NFKD")
    return pc.utf8_lower(pc.replace_substring_regex(plain, r"[^\pL\pN/]", ""))
