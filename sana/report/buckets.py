"""How the samples fall into buckets, and what is lost on the way: the cropped edges and the seconds outside windows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sana.artifact import Artifact
from sana.bucket import Bucket
from sana.data.bucketing.treatments import treatment_lines
from sana.data.columns import batches, coded
from sana.facts import BucketFacts
from sana.report.histogram import Histogram, histogram
from sana.store import Store

_TEXTS = ["bucket", "split"]
_NUMBERS = ["width", "height", "fps", "window_fps", "crop_width", "crop_height"]


@dataclass(frozen=True)
class BucketCount:
    """One bucket: its samples of either split, and the mean fraction of a frame's area that is cropped off."""

    bucket: Bucket
    train: int
    eval: int
    crop_loss: float

    @property
    def total(self) -> int:
        return self.train + self.eval


@dataclass(frozen=True)
class Buckets:
    """Of all windows. `seconds`: of video in them, at the rate they are read."""

    counts: Sequence[BucketCount]
    crop_loss_percent: Histogram | None
    mean_crop_loss: float
    seconds: float
    frames: int  # of the clips that gave samples, at the rate they are read
    frames_used: int  # of these: in a sample, once however many they are in
    treatments: Sequence[str]  # what is done to fields and colours, a line each

    @property
    def train(self) -> int:
        return sum(count.train for count in self.counts)

    @property
    def eval(self) -> int:
        return sum(count.eval for count in self.counts)


def buckets(store: Store, artifact: Artifact) -> Buckets:
    """Read the windows that bucket made, largest bucket first. Raises SanaError when its table is gone or damaged."""
    totals: dict[tuple[str, str], int] = {}
    lost: dict[str, float] = {}
    losses: list[np.ndarray] = []  # 4 bytes a window, whatever their number
    seconds = 0.0
    for batch in batches(store, artifact, "clips.parquet", [*_TEXTS, *_NUMBERS]):
        number = {name: batch.column(name).to_numpy().astype(np.float64) for name in _NUMBERS}
        names, code = coded(batch.column("bucket"))
        splits, split = coded(batch.column("split"))
        # a display size is rounded to whole pixels, so a box may be larger than the frame by a fraction of one
        kept = number["crop_width"] * number["crop_height"] / (number["width"] * number["height"])
        loss = np.clip(1.0 - kept, 0.0, 1.0)
        losses.append((100 * np.round(loss, 6)).astype(np.float32))
        value_counts = np.bincount(code * len(splits) + split, minlength=len(names) * len(splits))
        for place, num in enumerate(value_counts.tolist()):
            key = names[place // len(splits)], splits[place % len(splits)]
            totals[key] = totals.get(key, 0) + num
        for name, part in zip(names, np.bincount(code, loss), strict=True):
            lost[name] = lost.get(name, 0.0) + float(part)
        rate = np.where(number["window_fps"] > 0, number["window_fps"], number["fps"])
        frames = np.array([Bucket.parse(name).num_frames for name in names], np.float64)[code]
        seconds += float(np.divide(frames, rate, out=np.zeros_like(frames), where=rate > 0).sum())
    counts = []
    for name, part in lost.items():
        train, held = totals.get((name, "train"), 0), totals.get((name, "eval"), 0)
        counts.append(BucketCount(Bucket.parse(name), train, held, part / (train + held)))
    num = sum(count.total for count in counts)
    facts = BucketFacts.of(artifact)
    return Buckets(
        counts=sorted(counts, key=lambda count: (-count.total, count.bucket)),
        crop_loss_percent=histogram(np.concatenate(losses), bins=20) if losses else None,
        mean_crop_loss=sum(lost.values()) / num if num else 0.0,
        seconds=seconds,
        frames=facts.frames,
        frames_used=facts.frames_used,
        treatments=treatment_lines(facts),
    )
