"""Specs of workers that a command starts, and no stage."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from sana.runtime.specs import Spec


@dataclass(frozen=True)
class LoraMergeSpec(Spec):
    """Merge an adapter into its base model; `out` is the folder to make, which is not there or empty."""

    WORKER: ClassVar[str] = "lora"
    base: str  # a folder in diffusers layout, or a hub id
    revision: str | None
    adapter: str  # a file, or a folder with one
    scale: float
    dtype: Literal["fp32", "bf16"]
    out: str


@dataclass(frozen=True)
class LoraExtractSpec(Spec):
    """Extract an adapter of the difference of two models; `out` is the folder to make, which is not there or empty."""

    WORKER: ClassVar[str] = "lora"
    model: str  # fine-tuned: a folder in diffusers layout
    base: str  # a folder in diffusers layout, or a hub id
    revision: str | None
    rank: int
    targets: tuple[str, ...]  # groups or globs, as in train.method
    device: Literal["auto", "cpu", "cuda"]
    out: str
