"""What `sana compare` finds, as one closed record: `--json` prints it, the terminal and the page show it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sana.comparison.data import ClipDifference
from sana.comparison.paired import LossDifference, SigmaDifference
from sana.record import Record


@dataclass(frozen=True)
class Side(Record):
    """One of what is compared. `name`: as it was asked for; `loss`: over its whole eval list; `title`: of the config of
    its newest run, "" where no run is on record.
    """

    label: str  # A, B, C ...
    name: str
    root: str
    train: str  # fingerprint of the train artifact; "": it is not finished, or an exported model
    trajectory: str  # "" of an exported model
    step: int | None
    weights: str  # initial, live, ema or exported
    method: str  # "": not known
    evaluated: str  # key of the artifact with its losses
    loss: float
    stderr: float | None
    num_samples: int
    title: str = ""


@dataclass(frozen=True)
class Common(Record):
    """How much of two evaluations is the same. `changed` samples have one id, and another content or caption."""

    samples: int
    samples_of_side: int
    samples_of_reference: int
    changed: int
    sigmas: int
    sigmas_of_side: int
    sigmas_of_reference: int

    @property
    def is_all(self) -> bool:
        """Whether both were evaluated on the same list and grid."""
        return (self.samples, self.samples) == (self.samples_of_side, self.samples_of_reference) and (
            self.sigmas,
            self.sigmas,
        ) == (self.sigmas_of_side, self.sigmas_of_reference)


@dataclass(frozen=True)
class LossComparison(Record):
    """The paired differences of one side to its reference, over the eval loss's samples and by part of them."""

    eval_loss: LossDifference
    common: Common
    sigmas: tuple[SigmaDifference, ...]
    buckets: Mapping[str, LossDifference] = field(default_factory=dict)
    datasets: Mapping[str, LossDifference] = field(default_factory=dict)
    separate: Mapping[str, LossDifference] = field(default_factory=dict)  # data sets that are no part of the eval loss
    conditions: Mapping[str, LossDifference] = field(default_factory=dict)  # with each in every sample
    notes: tuple[str, ...] = ()  # what differs beside the weights, and what is not compared


@dataclass(frozen=True)
class ConfigChange(Record):
    """What differs in the settings of one stage, a short phrase each: `learning_rate 0.003 -> 0.001`."""

    stage: str
    changes: tuple[str, ...]


@dataclass(frozen=True)
class PairComparison(Record):
    """One side and its reference, which is the first. Of data what training read, and what the eval loss did."""

    side: str
    reference: str
    losses: LossComparison
    config: tuple[ConfigChange, ...] = ()
    train_clips: ClipDifference | None = None  # None: see `notes`
    eval_clips: ClipDifference | None = None
    notes: tuple[str, ...] = ()  # what could not be compared, and why


@dataclass(frozen=True)
class SampleVideo(Record):
    """A video of one side, and the settings that it was made with."""

    side: str
    uri: str
    key: str
    bucket: str
    weights: str
    made_by: Literal["sample", "validation"]


@dataclass(frozen=True)
class SampleRow(Record):
    """The videos of one prompt and seed, of the sides that have one: at least two."""

    prompt: str  # nickname
    text: str
    seed: int
    videos: tuple[SampleVideo, ...]


@dataclass(frozen=True)
class Comparison(Record):
    """Everything that was found; `sides[0]` is the reference of all pairs."""

    sides: tuple[Side, ...]
    pairs: tuple[PairComparison, ...]
    samples: tuple[SampleRow, ...] = ()
    notes: tuple[str, ...] = ()
