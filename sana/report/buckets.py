"""How the samples fall into buckets, and what is lost on the way: the cropped edges and the seconds outside windows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sana.artifact import Artifact
from sana.bucket import Bucket
from sana.report.histogram import Histogram, histogram
from sana.report.tables import coded, columns
from sana.store import Store

_TEXTS = ["bucket", "split"]
_NUMBERS = ["width", "height", "fps", "window_fps", "crop_width", "crop_height"]


@dataclass(frozen=True)
class BucketCount:
    """One bucket: its samples of either split, and the mean share of a frame's area that is cropped off."""

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

    @property
    def train(self) -> int:
        return sum(count.train for count in self.counts)

    @property
    def eval(self) -> int:
        return sum(count.eval for count in self.counts)


def buckets(store: Store, artifact: Artifact) -> Buckets:
    """Read the windows that bucket made, largest bucket first. Raises SanaError when its table is gone or damaged."""
    table = columns(store, artifact, "clips.parquet", [*_TEXTS, *_NUMBERS], dictionary=_TEXTS)
    number = {name: table.column(name).to_numpy().astype(np.float64) for name in _NUMBERS}
    names, code = coded(table.column("bucket"))
    splits, split = coded(table.column("split"))
    # a display size is rounded to whole pixels, so a box may be larger than the frame by a fraction of one
    kept = number["crop_width"] * number["crop_height"] / (number["width"] * number["height"])
    loss = np.clip(1.0 - kept, 0.0, 1.0)
    shapes = [Bucket.parse(name) for name in names]
    sums = np.bincount(code, loss, minlength=len(names))
    totals = np.bincount(code, minlength=len(names))
    of_eval = np.bincount(code[split == splits.index("eval")], minlength=len(names)) if "eval" in splits else 0 * totals
    counts = [
        BucketCount(shape, int(total - held), int(held), float(lost / total))
        for shape, total, held, lost in zip(shapes, totals, of_eval, sums, strict=True)
    ]
    rate = np.where(number["window_fps"] > 0, number["window_fps"], number["fps"])
    frames = np.array([shape.num_frames for shape in shapes], np.float64)[code]
    return Buckets(
        counts=sorted(counts, key=lambda count: (-count.total, count.bucket)),
        crop_loss_percent=histogram(100 * np.round(loss, 6), bins=20),
        mean_crop_loss=float(loss.mean()) if loss.size else 0.0,
        seconds=float(np.divide(frames, rate, out=np.zeros_like(frames), where=rate > 0).sum()),
    )
