"""Specs: what each worker is to do. One closed record for each, which the stage writes and the worker reads.

Imports base modules only. A worker that is added later has its spec in a module that its stage imports as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from sana.artifact import Artifact, FileInfo
from sana.record import Record


@dataclass(frozen=True)
class Spec(Record):
    """The base of specs: `WORKER` is the module of `PACKAGE` that reads it."""

    PACKAGE: ClassVar[str] = "sana.workers"
    WORKER: ClassVar[str]

    @classmethod
    def module(cls) -> str:
        """Return the name by which `python -m` finds the worker."""
        return f"{cls.PACKAGE}.{cls.WORKER}"


@dataclass(frozen=True)
class ModelSource(Record):
    """A model in diffusers layout: a local folder, or a hub id and its commit."""

    path: str
    revision: str | None


@dataclass(frozen=True)
class PoolName(Record):
    """Which pool: `<stage>/pool/<key>`."""

    stage: str
    key: str


@dataclass(frozen=True)
class CrashHistory(Record):
    """The crashes of the workers before this one, and where this one notes what it has open.

    `num_crashes`: how many processes crashed while a name was open. `journal`: path of its crash journal; of several
    ranks each has its own, see `rank_journal`.
    """

    num_crashes: Mapping[str, int]
    journal: str


@dataclass(frozen=True)
class WorkerRange(Record):
    """Which of the workers of a stage, over all machines, the ranks of this job are."""

    num_ranks: int  # processes of this job
    first_worker: int  # number of its rank 0
    num_workers: int  # of all jobs


@dataclass(frozen=True)
class CheckpointName(Record):
    """Which checkpoint: of a trajectory, after this many optimizer steps."""

    trajectory: str
    step: int


@dataclass(frozen=True)
class InitialWeights(Record):
    """Weights to start from: those of a checkpoint, with its optimizer's state if asked, or of a model in a folder."""

    checkpoint: CheckpointName | None
    path: str | None
    which: Literal["ema", "live"]
    optimizer: bool


@dataclass(frozen=True)
class ProbeSpec(Spec):
    """Open the videos that download listed and the pool lacks."""

    WORKER: ClassVar[str] = "probe"
    pool: PoolName
    download: Artifact
    crashes: CrashHistory


@dataclass(frozen=True)
class EncodeCaptionsSpec(Spec):
    """Encode the job's texts."""

    WORKER: ClassVar[str] = "encode_captions"
    pool: PoolName
    model: ModelSource


@dataclass(frozen=True)
class EncodeMasksSpec(Spec):
    """Encode the masks of the job's windows."""

    WORKER: ClassVar[str] = "encode_masks"
    pool: PoolName
    crashes: CrashHistory


@dataclass(frozen=True)
class EncodeLatentsSpec(Spec):
    """Encode the job's windows, or a partition of them."""

    WORKER: ClassVar[str] = "encode_latents"
    pool: PoolName
    model: ModelSource
    workers: WorkerRange
    crashes: CrashHistory


@dataclass(frozen=True)
class EncodeFeaturesSpec(Spec):
    """Encode the features of frames of the job's windows."""

    WORKER: ClassVar[str] = "encode_features"
    pool: PoolName
    encoder: ModelSource
    workers: WorkerRange
    crashes: CrashHistory


@dataclass(frozen=True)
class TrainSpec(Spec):
    """Train along a trajectory to the config's `max_steps`, and export what was learned."""

    WORKER: ClassVar[str] = "train"
    model: ModelSource
    latents: Artifact
    captions: Artifact
    trajectory: str
    fingerprint: str  # of the artifact to be made
    keep_steps: tuple[int, ...]  # of checkpoints that committed artifacts refer to: they are not pruned
    draws_per_epoch: Mapping[str, float]  # by data set; without those whose clips are drawn once per epoch
    initial: InitialWeights | None = None  # None: the weights of `model`
    masks: Artifact | None = None  # of what the loss looks inside
    features: Artifact | None = None  # of an image encoder, that hidden states are aligned with


@dataclass(frozen=True)
class PassportSpec(Spec):
    """Load each export of a training as a user does, and compare what it computes with what was trained."""

    WORKER: ClassVar[str] = "passport"
    model: ModelSource  # that an adapter is loaded beside
    folder: str  # key of the exports
    files: Mapping[str, FileInfo]  # of the exports, by their names in the artifact
    reference: str  # local safetensors file of a fixed batch and the trained velocity
    num_ranks: int  # that trained
    not_exported: Mapping[str, str]  # reasons, by layout
    out_dir: str


@dataclass(frozen=True)
class CheckBaseSpec(Spec):
    """Probe the weights that training starts from on held-out clips, and write the report to `out_dir`."""

    WORKER: ClassVar[str] = "check_base"
    MAX_SAMPLES: ClassVar[int] = 16  # held-out clips, the first by hash of sample_id
    PASSES_PER_SAMPLE: ClassVar[int] = 36  # 6 ways of asking at 6 noise levels
    model: ModelSource
    latents: Artifact
    captions: Artifact
    initial: InitialWeights | None  # None: the weights of `model`
    out_dir: str


@dataclass(frozen=True)
class EvaluateSpec(Spec):
    """Measure the eval loss of a checkpoint, and write the report and its files to `out_dir`, a local folder."""

    WORKER: ClassVar[str] = "evaluate"
    model: ModelSource
    latents: Artifact
    captions: Artifact
    checkpoint: CheckpointName
    out_dir: str


@dataclass(frozen=True)
class SampleSpec(Spec):
    """Make the videos of the prompts from a checkpoint, and write them to `out_dir`, a local folder."""

    WORKER: ClassVar[str] = "sample"
    model: ModelSource
    captions: Artifact
    checkpoint: CheckpointName
    out_dir: str
    latents: Artifact | None = None  # what a preview's map is fitted on


@dataclass(frozen=True)
class Publication(Record):
    """What becomes one commit of a branch, or one folder: files in the store by their names there.

    With `checkpoint`, its EMA weights are exported as well.
    """

    name: str  # of the branch, or of the folder
    message: str
    files: Mapping[str, FileInfo]
    checkpoint: CheckpointName | None = None


@dataclass(frozen=True)
class PublishSpec(Spec):
    """Upload publications to a hub repository, a bucket or a folder; where they are comes back as a PublishResult."""

    WORKER: ClassVar[str] = "publish"
    to: str
    private: bool
    model: ModelSource
    publications: tuple[Publication, ...]
