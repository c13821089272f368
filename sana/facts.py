"""The facts that stages record about their artifacts: one closed record each, read as `TrainFacts.of(artifact)`.

A stage that is added later may have its class in its own module. MLflow shows the numbers under their dotted names.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final, Literal

from sana.artifact import Facts
from sana.record import Record

BASELINE: Final = "initial"  # the weights before training
WEIGHTS: tuple[Literal["initial", "live", "ema"], ...] = (BASELINE, "live", "ema")  # the sets that are evaluated


@dataclass(frozen=True)
class ComputeSettings(Record):
    """How the numbers of a run were computed: what changes their last bits and is in no hash."""

    device: str
    torch: str
    compiled: bool  # the transformer's blocks
    activations_kept: float  # share, 0 to 1; of blocks that are not compiled it changes no bit
    micro_batch_size: int
    num_ranks: int
    sharding: str = "none"
    offload: str = "none"
    precision: str = ""  # of matrix products: fp32, tf32, bf16 (weights too) or "bf16 autocast"; "" before it was kept

    def differences(self, other: "ComputeSettings") -> list[str]:
        """Return what was changed from `other`, as "num_ranks 1 -> 2", of what changes the last bits."""
        names = ["device", "torch", "compiled", "micro_batch_size", "num_ranks", "sharding", "offload"]
        if self.precision and other.precision:
            names.append("precision")
        if self.compiled and other.compiled:
            names.append("activations_kept")
        pairs = [(name, getattr(other, name), getattr(self, name)) for name in names]
        return [f"{name} {before} -> {after}" for name, before, after in pairs if before != after]


@dataclass(frozen=True)
class CaptionCounts(Record):
    """The captions of one data set's clips."""

    captions: int
    with_alternatives: int  # clips that have several captions
    dropped: int  # alternatives that are no text, of clips that have others
    damaged: int  # captions with U+FFFD, which stands for bytes that were lost before they were written


@dataclass(frozen=True)
class DownloadFacts(Facts):
    """`revisions`: of each data set by id, its commit on the hub; "" where it is not from the hub.

    `unused_files`: of each data set that has files which nothing reads, their number by ending.
    """

    STAGE: ClassVar[str] = "download"
    revisions: Mapping[str, str]
    unused_files: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    captions: Mapping[str, CaptionCounts] = field(default_factory=dict)  # by data set


@dataclass(frozen=True)
class BucketSummary(Record):
    """One bucket that has samples, from `clips` clips; the fractions of frames' area cropped off and upscaled."""

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
    """A bucket with too few train samples, and what was done about it; None where the config does not ask for it."""

    train: int  # samples it had
    draws_per_epoch: int | None  # how often each of them is drawn in an epoch
    moved: Mapping[str, int]  # clips, by the bucket they were moved to
    stayed: int | None  # clips that fit no other bucket


@dataclass(frozen=True)
class BucketFacts(Facts):
    """A summary of each bucket. `frames`: of the clips that gave samples, at the rate they are read.

    Of the same clips: how many have each treatment, and how many are used as they are though unusual.
    """

    STAGE: ClassVar[str] = "bucket"
    buckets: Mapping[str, BucketSummary]
    sources: int  # of the clips that were not rejected; sources that share a content are one
    small_buckets: Mapping[str, SmallBucket]
    frames: int
    frames_used: int  # in at least one sample, each counted once
    frames_dropped: int
    treatments: Mapping[str, int] = field(default_factory=dict)  # by one of TREATMENTS
    untreated: Mapping[str, int] = field(default_factory=dict)  # by what is unusual: "primaries bt2020"


@dataclass(frozen=True)
class EncodeFeaturesFacts(Facts):
    """`num_bytes` of features, and `hidden_size`, the numbers of one."""

    STAGE: ClassVar[str] = "encode_features"
    num_bytes: int
    hidden_size: int


@dataclass(frozen=True)
class EncodeLatentsFacts(Facts):
    """`num_bytes` of latents; `train_samples` by data set, for those that have any."""

    STAGE: ClassVar[str] = "encode_latents"
    num_bytes: int
    train_samples: Mapping[str, int]


@dataclass(frozen=True)
class TrainFacts(Facts):
    """The trajectory of a training run, and the checkpoint of its last step."""

    STAGE: ClassVar[str] = "train"
    trajectory: str
    step: int  # optimizer steps done
    checkpoint: str  # key of its index
    metrics: tuple[str, ...]  # keys of all metrics segments, in order
    model: str  # key of the exported folder
    passport: Mapping[str, float] = field(default_factory=dict)  # by layout: how far an export's velocity is off
    not_exported: Mapping[str, str] = field(default_factory=dict)  # reasons, by layout


@dataclass(frozen=True)
class SigmaLoss(Record):
    """The eval loss at one noise level; `stderr` is None for a single sample."""

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
class SeparateLoss(Record):
    """The losses of a data set that is measured by itself, or with a condition in every sample that it applies to.

    By set of weights, and compared with the initial ones.
    """

    num_samples: int
    weights: Mapping[str, WeightsLoss]
    paired: Mapping[str, PairedDifference]


@dataclass(frozen=True)
class EvaluateFacts(Facts):
    """The eval loss of each set in WEIGHTS, and the paired difference to BASELINE of the others, by name.

    `conditions`: the same with each condition of training, by its label.
    """

    STAGE: ClassVar[str] = "evaluate"
    weights: Mapping[str, WeightsLoss]
    paired: Mapping[str, PairedDifference]
    step: int  # of the checkpoint
    conditions: Mapping[str, SeparateLoss] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluateWeightsFacts(Facts):
    """One set of weights, whose losses `sana compare --evaluate` measured; no stage of a run has these artifacts."""

    STAGE: ClassVar[str] = "evaluate_weights"
    weights: Literal["initial", "live", "ema", "exported"]
    trajectory: str  # of the checkpoint; "" of an export
    step: int | None  # of the checkpoint; None of an export
    num_samples: int
    compute: ComputeSettings | None = None


@dataclass(frozen=True)
class SampleFacts(Facts):
    """File names: `videos` by the nickname of their prompt, and the contact sheet."""

    STAGE: ClassVar[str] = "sample"
    videos: Mapping[str, str]
    contact_sheet: str


@dataclass(frozen=True)
class PublishFacts(Facts):
    """What was uploaded, or, in a dry run, would have been. `links`: pages, which MLflow and notifications show."""

    STAGE: ClassVar[str] = "publish"
    to: str
    dry_run: bool
    places: Mapping[str, str]  # of each publication by name: a commit, or the address of a folder; of a dry run none
    num_files: int
    num_bytes: int
    links: Mapping[str, str] = field(default_factory=dict)
