"""The documents that `--json` prints, but for those that are records elsewhere. Keys are stable: one is added, none
changes its meaning. docs/cli-output.md is made of this and read by a test.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sana.record import JsonObject, Record


@dataclass(frozen=True)
class StageOutcome(Record):
    """What became of one stage in a run. None: it made no artifact, or counts nothing."""

    name: str
    state: str  # cached, completed, reproduced, failed, stopped or not reached
    fingerprint: str | None
    key: str | None  # folder of its artifact, under root
    num_in: int | None
    num_out: int | None
    num_rejected: int | None
    num_samples: int | None
    seconds: float | None
    done: str = ""  # of a stage that did not end: what it had done, in words


@dataclass(frozen=True)
class EvalLoss(Record):
    """The eval loss of one set of weights."""

    mean: float
    stderr: float | None  # standard error over samples; None of one sample
    relative_drop: float | None  # from the weights before training; None of those
    paired_difference: float | None  # from them, mean over samples: below 0 is better
    paired_stderr: float | None


@dataclass(frozen=True)
class RunDocument(Record):
    """What a run did."""

    config: str
    root: str
    state: str  # completed, cached, failed or stopped
    error: str  # what ended it, or ""
    stages: tuple[StageOutcome, ...]
    model: str | None  # folder of the exported model or adapter
    eval: Mapping[str, EvalLoss]  # by weights: initial, live, ema; empty before evaluate
    samples: str | None  # picture of the sampled videos
    published: str | None
    how_to_continue: tuple[str, ...]  # of stages that did not end: what is kept, and the command


@dataclass(frozen=True)
class InitDocument(Record):
    """The config that was written, and what comes next."""

    config: str
    would_stop: tuple[str, ...]  # what would stop a run of it
    next: tuple[str, ...]  # commands


@dataclass(frozen=True)
class ValidateDocument(Record):
    """A config that is valid; one that is not is an error."""

    config: str
    root: str
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class RejectReason(Record):
    """Clips of one data set that would be rejected for one reason."""

    reason: str
    num: int
    names: tuple[str, ...]  # the first of them, each with what was found
    remedy: str  # what would help, or ""


@dataclass(frozen=True)
class CheckedDataset(Record):
    """What a run would make of one data set."""

    id: str
    source: str
    layout: str  # of the captions
    num_clips: int
    num_used: int
    rejected: tuple[RejectReason, ...]


@dataclass(frozen=True)
class CheckedBucket(Record):
    """The samples of one bucket."""

    train: int
    eval: int
    clips: int
    crop_loss: float  # share of the pixels that is cut off
    upscaled: float  # share of the samples that is enlarged


@dataclass(frozen=True)
class CheckDocument(Record):
    """What a run would make of the data. `datasets` and `buckets` are of the config that was checked."""

    place: str  # the source or config
    stops: tuple[str, ...]  # what would stop a run; of a SOURCE: a run of `made`
    datasets: tuple[CheckedDataset, ...]
    buckets: Mapping[str, CheckedBucket]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    made: str | None  # of a SOURCE: the config to begin with, as YAML
    written: str | None  # the file it was written to
    next: str  # the command that comes next


@dataclass(frozen=True)
class ConversionDocument(Record):
    """What a conversion made."""

    config: str  # the YAML that was written
    tables: str  # what became of each key, as Markdown
    num_keys: int
    num_mapped: int
    not_carried: Mapping[str, str]  # keys that are no setting here: why
    unknown: Mapping[str, str]
    changes: tuple[str, ...]  # what makes other results than there
    next: str


@dataclass(frozen=True)
class CalibrateDocument(Record):
    """What was measured: `measured` is the record that is kept under work_dir."""

    measured: JsonObject
    settings: tuple[str, ...]  # of the fastest that fits, as `-s` takes them; empty where nothing fits
    kept: str | None  # the file; None: it is of less memory than the device has


@dataclass(frozen=True)
class ReportDocument(Record):
    """A page that was written."""

    page: str


@dataclass(frozen=True)
class InspectDocument(Record):
    """One stored sample, and the files made of it."""

    sample_id: str
    inspection: JsonObject  # clip, frames, bucket, PSNR in dB, latent and captions
    video: str  # source left, decoded right
    contact_sheet: str


@dataclass(frozen=True)
class NotifyDocument(Record):
    """What became of a test notification: by target, why it was not sent, or ""."""

    failures: Mapping[str, str]


@dataclass(frozen=True)
class WorkerDocument(Record):
    """One machine's part of the work that is done."""

    index: int
    count: int
    num_samples: int | None  # None of training
    key: str | None  # of a training: folder of its artifact under root; None on other ranks than 0
    next: str


@dataclass(frozen=True)
class GenerateDocument(Record):
    """A video that was made."""

    video: str
    bucket: str
    num_inference_steps: int
    seed: int
    weights: str  # ema or live
    step: int  # of the checkpoint
    previews: str | None  # their folder


@dataclass(frozen=True)
class SampleDocument(Record):
    """The videos of one checkpoint."""

    step: int
    videos: tuple[str, ...]
    contact_sheets: tuple[str, ...]


@dataclass(frozen=True)
class ModelDocument(Record):
    """A model or adapter that was written to a folder."""

    folder: str
    num_copied: int  # files
    num_bytes: int
    num_present: int  # files that were there
    load_with: tuple[str, ...]  # lines of Python


@dataclass(frozen=True)
class LoraDocument(Record):
    """An adapter that was extracted, or a model that one was merged into."""

    folder: str
    found: JsonObject  # how much of the change it has, or how far it moves the velocity
    load_with: tuple[str, ...]  # lines of Python


@dataclass(frozen=True)
class TinyModelDocument(Record):
    """A checkpoint of random weights."""

    folder: str
    kind: str  # model or encoder


@dataclass(frozen=True)
class StageHealth(Record):
    """The objects in one stage's folder."""

    num_objects: int
    num_bytes: int
    ok: int
    damaged: int
    missing: int
    num_orphaned: int
    orphaned_bytes: int


@dataclass(frozen=True)
class ProblemObject(Record):
    """An object that is damaged, missing or unreadable."""

    key: str
    state: str
    what: str
    needed_by: tuple[str, ...]


@dataclass(frozen=True)
class UnusedObject(Record):
    """An object that nothing committed refers to, or that is old."""

    key: str
    num_bytes: int
    why: str


@dataclass(frozen=True)
class VerifyDocument(Record):
    """What a verification found. Exit code 1 with any problem."""

    root: str
    deep: bool
    stages: Mapping[str, StageHealth]
    problems: tuple[ProblemObject, ...]
    orphaned: tuple[UnusedObject, ...]
    num_superseded: int  # problems of records that later ones put out of use
    invalidated: tuple[str, ...]  # records that --invalidate took back
    repair: str  # the command, or ""


@dataclass(frozen=True)
class GcDocument(Record):
    """What is to be deleted, or was."""

    root: str
    deleted: bool
    objects: tuple[UnusedObject, ...]
    num_bytes: int


@dataclass(frozen=True)
class CopyDocument(Record):
    """What was copied from one root to another."""

    source: str
    target: str
    num_copied: int  # objects
    num_bytes: int
    num_present: int  # that the target had
    kept: tuple[str, ...] = field(default=())  # records of the target's own, which stay
