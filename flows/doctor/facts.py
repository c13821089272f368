"""What a probe finds out in a process of its own, as its judge is given it."""

from dataclasses import dataclass
from typing import ClassVar

from sana.record import Record


@dataclass(frozen=True)
class ProbeFacts(Record):
    """The base of facts: `PROBE` is the name of the probe that prints them."""

    PROBE: ClassVar[str]


@dataclass(frozen=True)
class TorchFacts(ProbeFacts):
    """What torch is built for, and whether a device of this machine computes with it; `error` says why not."""

    PROBE: ClassVar[str] = "torch"
    torch: str  # version
    cuda: str | None  # version of CUDA or ROCm; None: a build for the CPU
    num_devices: int = 0
    works: bool = False
    error: str = ""


@dataclass(frozen=True)
class DecoderFacts(ProbeFacts):
    """The mean colours of the two halves of the frame that was decoded, 0 to 255, and the libraries' versions."""

    PROBE: ClassVar[str] = "decoder"
    colours: tuple[tuple[int, ...], ...]
    av: str
    decord2: str


@dataclass(frozen=True)
class PrefectFacts(ProbeFacts):
    """The server of Prefect's settings; `trouble` says why it cannot be used, and what to do."""

    PROBE: ClassVar[str] = "prefect"
    trouble: str = ""
    url: str = ""
    origin: str = ""  # where its address was set
