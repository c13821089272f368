"""Windows: which frames of a clip become samples, as numpy columns over many clips. Opens no video.

Frames here are those of the file or, with a target rate, the times k / rate after the first frame: a player shows one
frame of the file at each. Random draws are counter-based: a function of the clip and of their purpose.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from sana.config.bucket import BucketRules

Ints = NDArray[np.int64]
Seeds = NDArray[np.uint64]

# Matroska rounds times to milliseconds: a time this close to the end of the clip may lie beyond it
END_SLACK_S = 0.002
_NO_DRAW = np.iinfo(np.int64).max


def available_frames(num_frames: Ints, duration_s: NDArray[np.float64], target_fps: float | None) -> Ints:
    """Return how many frames each clip has, at the target rate if there is one: int64 [clips], at least 1."""
    if target_fps is None:
        return num_frames.astype(np.int64)
    # time k / rate, k = 0, 1, ..., is in the clip while it is below the duration
    return np.maximum(1, np.ceil((duration_s - END_SLACK_S) * target_fps - 1e-9)).astype(np.int64)


def num_windows(rules: BucketRules, available: Ints, length: Ints) -> Ints:
    """Return how many windows of `length` frames each clip gives: int64 [clips], at least 1.

    `available` frames must hold at least one window. Starts are distinct, so a short clip gives fewer.
    """
    if rules.window in ("head", "middle"):
        return np.ones(len(available), np.int64)
    room = available - length
    room = room // _stride(rules, length) if rules.window == "stride" else room
    most: Ints = np.minimum(rules.windows_per_clip, room + 1)
    return most


def choose_windows(rules: BucketRules, available: Ints, length: Ints, seeds: Seeds) -> tuple[Ints, Ints]:
    """Return (clip, start) of every window, int64 [windows] each: by clip, starts ascending within one.

    Every window lies in its clip: 0 <= start <= available - length. With a larger `windows_per_clip` the random starts
    of a smaller one remain.
    """
    counts = num_windows(rules, available, length)
    clip = np.repeat(np.arange(len(counts)), counts)
    room, count = (available - length)[clip], counts[clip]
    position = np.arange(len(clip)) - np.repeat(np.cumsum(counts) - counts, counts)
    if rules.window == "head":
        start = np.zeros(len(clip), np.int64)
    elif rules.window == "stride":
        start = position * _stride(rules, length)[clip]
    elif rules.window == "random":
        start = _draw_distinct(seeds, available - length + 1, counts)
    else:  # uniform: the first at 0, the last at the end; a single one is in the middle
        spread = (2 * position * room + count - 1) // np.maximum(1, 2 * (count - 1))
        start = np.where(count == 1, room // 2, spread)
    return clip, start


def covered_frames(clip: Ints, start: Ints, length: Ints, num_clips: int) -> Ints:
    """Return how many frames of each clip are in at least one window: int64 [num_clips].

    `clip`, `start` and `length` are columns over windows, ordered as `choose_windows` orders them.
    """
    new_frames = length.copy()  # each window counts the frames before the next window of its clip
    same = clip[1:] == clip[:-1]
    new_frames[:-1][same] = np.minimum(length[:-1], start[1:] - start[:-1])[same]
    return np.bincount(clip, weights=new_frames, minlength=num_clips).astype(np.int64)


def seeds_of(clip_ids: pa.Array | pa.ChunkedArray) -> Seeds:
    """Return 64 bits for each clip_id, by a hash that never changes: uint64 [clips]."""
    hashes = (xxhash.xxh3_64_intdigest(name) for name in pc.cast(clip_ids, pa.binary()).to_pylist())
    return np.fromiter(hashes, np.uint64, len(clip_ids))


def draw_bits(seeds: Seeds, stream: int) -> Seeds:
    """Return the random bits number `stream` of each seed: uint64 [seeds].

    SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
    """
    z = seeds + np.uint64((stream + 1) * 0x9E3779B97F4A7C15 % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _stride(rules: BucketRules, length: Ints) -> Ints:
    return length if rules.window_stride is None else np.full_like(length, rules.window_stride)


def _draw_distinct(seeds: Seeds, choices: Ints, counts: Ints) -> Ints:
    """Draw counts[i] distinct numbers below choices[i], ascending; returns those of all i, joined: int64 [draws]."""
    most = int(counts.max(initial=0))
    drawn = np.full((len(counts), most), _NO_DRAW)
    for number in range(most):
        left = np.maximum(1, choices - number)
        pick = (draw_bits(seeds, number) % left.astype(np.uint64)).astype(np.int64)
        for column in range(number):  # the pick-th of those not drawn yet; drawn ones are sorted
            pick += pick >= drawn[:, column]
        drawn[:, number] = np.where(counts > number, pick, _NO_DRAW)
        drawn[:, : number + 1].sort(axis=1)
    kept: Ints = drawn[drawn != _NO_DRAW]
    return kept
