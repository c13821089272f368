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
    reference: str = ""  # local file of a fixed batch and what the trained model computes of it; "": none was asked for
    num_ranks: int = 1
    not_exported: Mapping[str, str] = field(default_factory=dict)  # reasons, by layout


Layout = Literal["diffusers", "peft", "comfyui", "merged"]  # of an export


@dataclass(frozen=True)
class ExportCheck(Record):
    """One export, loaded by stock diffusers in a process of its own.

    `difference` is the length of the difference of two velocities over the length of the first.
    """

    layout: Layout
    file: str  # its name in the artifact; of a checkpoint its folder's
    loaded_by: str
    difference: float  # from the trained model's velocity, computed as in training
    bound: float  # of `difference`
    why_bound: str
    strict_difference: float | None = None  # in strict float32 on a CPU, from our own loading of the same weights
    strict_bound: float | None = None

    @property
    def is_bit_equal(self) -> bool:
        return self.difference == 0.0

    @property
    def holds(self) -> bool:
        """Whether it is within its bounds; nan is not."""
        strict = self.strict_difference is None or self.strict_difference <= (self.strict_bound or 0.0)
        return self.difference <= self.bound and strict


@dataclass(frozen=True)
class Passport(Record):
    """The checks of all exports of a training, and what was not exported, with the reason."""

    FILE: ClassVar[str] = "passport.json"
    checks: tuple[ExportCheck, ...]
    not_exported: Mapping[str, str]
    effect: float | None  # of an adapter: how far it moves the velocity, strict float32; None: there is none
    device: str
    precision: str  # that training computed in
    versions: Mapping[str, str]  # of what loaded them


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
class EvaluatedWeights(Record):
    """What was measured of one set of weights."""

    FILE: ClassVar[str] = "evaluated.json"
    num_samples: int
    losses_digest: str
    compute: ComputeSettings


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


@dataclass(frozen=True)
class LoraMergeResult(Record):
    """What was merged; `effect`: how far it moves the velocity of a fixed batch, relative."""

    layers: int
    effect: float
    num_bytes: int  # of the transformer's weights


@dataclass(frozen=True)
class LoraExtractResult(Record):
    """How much of a fine-tuned model an adapter has.

    Energy is the sum of squares of what changed. Velocities are of a fixed batch, relative, in strict float32.
    """

    FILE: ClassVar[str] = "extract.json"
    rank: int
    energy: Mapping[str, float]  # by layer: the captured share of its change
    captured: float  # of all these layers
    left_out: float  # share of the whole change that is in tensors which an adapter has nothing beside
    num_left_out: int  # of them that changed
    model_velocity: float  # the fine-tuned model's, from the base's
    adapter_velocity: float  # the base's with the adapter, from the fine-tuned model's
    num_bytes: int  # of the adapter
