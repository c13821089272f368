"""What `sana init` was told by flags, which is not asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Flags:
    """Each None, or empty, where it is to be asked or proposed. `overrides` are `key=value` of -s."""

    source: str | None = None
    output: Path | None = None
    root: str | None = None
    work_dir: str | None = None
    model: str | None = None
    method: Literal["full", "lora"] | None = None
    holdout: tuple[str, ...] = ()
    eval_fraction: float | None = None
    prompts: tuple[str, ...] = ()
    caption: str | None = None
    caption_columns: tuple[str, ...] = ()
    experiment: str | None = None
    name: str | None = None
    overrides: tuple[str, ...] = ()
