"""Results: what each worker made. One closed record for each, which the worker writes and its stage reads.

Imports base modules only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from sana.artifact import FileInfo
from sana.facts import ComputeSettings, PairedDifference, SeparateLoss, WeightsLoss
from sana.record import Record


@dataclass(frozen=True)
class WeightsDigests(Record):
    """Digests of the trained weights and of their average."""

    live: str
    ema: str


@dataclass(frozen=True)
class TrainResult(Record):
    """What train leaves beside its job."""

    step: int  # optimizer steps done
    trajectory: str
    checkpoint: str  # key of its index
    num_samples: int  # train rows
    model: str  # key of the exported folder
    files: Mapping[str, FileInfo]  # of the export, by name
    weights: WeightsDigests
    weights_digest: str  # of both
    metrics: tuple[str, ...]  # keys of all metrics segments, in order
    metrics_path: str  # local file with the same rows


@dataclass(frozen=True)
class ProbeVerdict(Record):
    """What one probe of the base model found, in words."""

    probe: str  # loss, captions, timestep or instruction
    verdict: Literal["passed", "failed", "unsure"]
    said: str


@dataclass(frozen=True)
class BaseCheckReport(Record):
    """The probes of the base model on held-out clips, and the numbers behind them."""

    FILE: ClassVar[str] = "base_check.json"
    num_samples: int
    sigmas: tuple[float, ...]
    losses: Mapping[str, tuple[float, ...]]  # mean over samples at each sigma, by how the model was asked
    unit_guess: tuple[float, ...]  # loss of the best linear guess at each sigma, from unit statistics
    clips_guess: tuple[float, ...]  # and from those of the clips
    mean_shift: float  # root mean square of the channels' means
    scale_shift: float  # root mean square of log2 of the channels' standard deviations
    verdicts: tuple[ProbeVerdict, ...]

    @property
    def failed(self) -> tuple[ProbeVerdict, ...]:
        return tuple(verdict for verdict in self.verdicts if verdict.verdict == "failed")


@dataclass(frozen=True)
class EvalReport(Record):
    """The eval loss of the weights of one checkpoint, by name, and all but the initial ones compared with those."""

    FILE: ClassVar[str] = "report.json"
    trajectory: str
    step: int
    num_samples: int
    num_sigmas: int
    losses_digest: str  # of all losses
    eval_list_digest: str  # of the ids of the samples
    weights: Mapping[str, WeightsLoss]
    paired: Mapping[str, PairedDifference]
    compute: ComputeSettings | None = None  # None: an older version's
    datasets: Mapping[str, SeparateLoss] = field(default_factory=dict)  # those measured by themselves, by id
    conditions: Mapping[str, SeparateLoss] = field(default_factory=dict)  # by the condition's label
    condition_losses_digest: str = ""  # of their losses; empty without conditions


@dataclass(frozen=True)
class SampleResult(Record):
    """`videos`: name of the file of each prompt, by nickname."""

    FILE: ClassVar[str] = "videos.json"
    videos: Mapping[str, str]
    videos_digest: str  # of all pixels


@dataclass(frozen=True)
class StoredLatent(Record):
    """A latent as it is stored; `std`: its standard deviation."""

    dtype: str
    shape: tuple[int, ...]
    std: float


@dataclass(frozen=True)
class SampleInspection(Record):
    """One sample beside the frames it was made of; frames are counted from 0, both ends included."""

    FILE: ClassVar[str] = "sample.json"
    path: str
    bucket: str
    first_frame: int
    last_frame: int
    psnr_db: float  # of the decoded latent against the source's frames
    stored: StoredLatent
    captions: tuple[str, ...]


@dataclass(frozen=True)
class PublishResult(Record):
    """Where each publication is, by its name: a commit of the hub's, or the address of a folder."""

    places: Mapping[str, str]
    num_files: int
    num_bytes: int
