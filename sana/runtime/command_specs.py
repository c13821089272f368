"""Specs of workers that a command starts, and no stage."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from sana.artifact import Artifact
from sana.record import JsonObject, Record
from sana.runtime.specs import CheckpointName, InitialWeights, ModelSource, Spec


@dataclass(frozen=True)
class CommandSpec(Spec):
    """The base of specs of workers that a command starts, and no stage."""

    PACKAGE: ClassVar[str] = "sana.workers.commands"


@dataclass(frozen=True)
class EvaluateWeightsSpec(CommandSpec):
    """Measure the losses of one set of weights, of a checkpoint or of an exported model in a local folder.

    Writes its table and an EvaluatedWeights to `out_dir`, a local folder.
    """

    WORKER: ClassVar[str] = "evaluate_weights"
    model: ModelSource
    latents: Artifact
    captions: Artifact
    checkpoint: CheckpointName | None
    folder: str | None
    weights: Literal["initial", "live", "ema", "exported"]
    out_dir: str


@dataclass(frozen=True)
class ValidateSpec(CommandSpec):
    """Make the videos of validation from a checkpoint, and store them and their record under its trajectory."""

    WORKER: ClassVar[str] = "validate"
    model: ModelSource
    latents: Artifact
    captions: Artifact
    checkpoint: CheckpointName  # step 0: the weights that training starts from
    initial: InitialWeights | None


@dataclass(frozen=True)
class StoredTensor(Record):
    """Where one tensor is stored, as its index row says."""

    shard: str
    offset: int
    num_bytes: int
    digest: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class InspectSampleSpec(CommandSpec):
    """Decode one latent beside the frames of its window, which is the one row of the job."""

    WORKER: ClassVar[str] = "inspect_sample"
    model: ModelSource
    latent: StoredTensor
    captions: tuple[str, ...]
    out_dir: str


@dataclass(frozen=True)
class GenerateSpec(CommandSpec):
    """Make one video of a prompt from a checkpoint, by the job's sample settings; `out` is the local mp4 to write."""

    WORKER: ClassVar[str] = "generate"
    model: ModelSource
    checkpoint: CheckpointName
    prompt: str
    out: str
    image: str | None = None  # path of the picture that it begins with
    previews: str | None = None  # local folder of pictures of the video on its way
    latents: Artifact | None = None  # what a preview's map is fitted on


@dataclass(frozen=True)
class CalibrateSpec(CommandSpec):
    """Measure the job's training step, VAE and text encoder on random weights of these sizes."""

    WORKER: ClassVar[str] = "calibrate"
    model_configs: Mapping[str, JsonObject]  # config.json by component
    bucket: str
    caption_tokens: int
    memory_bytes: int  # use no more of the device; 0: all that is free


@dataclass(frozen=True)
class LoraMergeSpec(CommandSpec):
    """Merge an adapter into its base model; `out` is the folder to make, which is not there or empty."""

    WORKER: ClassVar[str] = "lora"
    base: str  # a folder in diffusers layout, or a hub id
    revision: str | None
    adapter: str  # a file, or a folder with one
    scale: float
    dtype: Literal["fp32", "bf16"]
    out: str


@dataclass(frozen=True)
class LoraExtractSpec(CommandSpec):
    """Extract an adapter of the difference of two models; `out` is the folder to make, which is not there or empty."""

    WORKER: ClassVar[str] = "lora"
    model: str  # fine-tuned: a folder in diffusers layout
    base: str  # a folder in diffusers layout, or a hub id
    revision: str | None
    rank: int
    targets: tuple[str, ...]  # groups or globs, as in train.method
    device: Literal["auto", "cpu", "cuda"]
    out: str
