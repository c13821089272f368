"""What stages say of their artifacts beside counts: one closed record for each, read as `TrainFacts.of(artifact)`.

A stage that is added later has its class in its own module, where `Facts.of` works alike. Numbers in them are shown by
MLflow under their dotted names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from sana.artifact import Facts
from sana.record import Record

BASELINE: Final = "initial"  # the weights that training began with
WEIGHTS: tuple[Literal["initial", "live", "ema"], ...] = (BASELINE, "live", "ema")  # that are evaluated


@dataclass(frozen=True)
class DownloadFacts(Facts):
    """`revisions`: of each data set, the commit of a hub data set or ""."""

    STAGE: ClassVar[str] = "download"
    revisions: Mapping[str, str]


@dataclass(frozen=True)
class BucketSummary(Record):
    """One bucket that has samples: of how many `clips`, and the parts of frames' area cropped off and upscaled."""

    train: int  # samples
    eval: int
    clips: int
    crop_loss: float
    upscaled: float

    @property
    def num_samples(self) -> int:
        return self.train + self.eval


@dataclass(frozen=True)
class SmallBucket(Record):
    """A bucket with too few train samples, and what was done about it; None where that was not asked for."""

    train: int  # samples it had
    draws_per_epoch: int | None  # how often they stand in an epoch
    moved: Mapping[str, int]  # clips, by the bucket they went to
    stayed: int | None  # clips that no other bucket takes


@dataclass(frozen=True)
class BucketFacts(Facts):
    """By bucket, what is in it. `frames`: of the clips that gave samples, at the rate they are read."""

    STAGE: ClassVar[str] = "bucket"
    buckets: Mapping[str, BucketSummary]
    sources: int  # distinct sources that are left
    small_buckets: Mapping[str, SmallBucket]
    frames: int
    frames_used: int  # in a sample, once however many they are in
    frames_dropped: int


@dataclass(frozen=True)
class EncodeLatentsFacts(Facts):
    """`num_bytes`: of the latents. `train_samples`: by data set, of those that have any."""

    STAGE: ClassVar[str] = "encode_latents"
    num_bytes: int
    train_samples: Mapping[str, int]


@dataclass(frozen=True)
class TrainFacts(Facts):
    """What a training run refers to: its trajectory, and the checkpoint of its last step."""

    STAGE: ClassVar[str] = "train"
    trajectory: str
    step: int  # optimizer steps done
    checkpoint: str  # key of its index
    metrics: tuple[str, ...]  # keys of all metrics segments, in order
    model: str  # key of the exported folder


@dataclass(frozen=True)
class SigmaLoss(Record):
    """The eval loss at one noise level; `stderr` is None of a single sample, which has none."""

    sigma: float
    mean: float
    stderr: float | None


@dataclass(frozen=True)
class WeightsLoss(Record):
    """The eval loss of one set of weights: the mean over samples, its standard error, and both by noise level."""

    mean: float
    stderr: float | None
    per_sigma: tuple[SigmaLoss, ...]


@dataclass(frozen=True)
class PairedDifference(Record):
    """The paired mean of (these weights - initial): `difference` is below 0 when training helped."""

    difference: float
    stderr: float | None
    num_samples: int
    relative_drop: float  # -difference / initial mean


@dataclass(frozen=True)
class EvaluateFacts(Facts):
    """The eval loss of each of WEIGHTS, and of all but BASELINE the difference to it, by name."""

    STAGE: ClassVar[str] = "evaluate"
    weights: Mapping[str, WeightsLoss]
    paired: Mapping[str, PairedDifference]
    step: int  # of the checkpoint


@dataclass(frozen=True)
class SampleFacts(Facts):
    """Names of files: `videos` by the nickname of their prompt."""

    STAGE: ClassVar[str] = "sample"
    videos: Mapping[str, str]
    contact_sheet: str
