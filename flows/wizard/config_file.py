"""The file that `sana init` writes: under a name that is free, whole or not at all."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from flows.cli.begin.check_text import lines_of_source
from flows.wizard.look import Hardware, Training
from sana.config.json_schema import schema_line
from sana.errors import SanaError
from sana.pipeline.check import Checked
from sana.pipeline.starting.fitting import Fit
from sana.wording import in_units

MAX_NAMES = 1000  # that are tried


def free_name(path: Path) -> Path:
    """Return the path, or the first of name-2, name-3 and so on that nothing has."""
    names = (path, *(path.with_stem(f"{path.stem}-{number}") for number in range(2, MAX_NAMES)))
    return next((name for name in names if not os.path.lexists(name)), path)


def trouble_with(path: Path) -> str:
    """Say why a config cannot be written there; "" if it can."""
    if os.path.lexists(path):
        return f"{path} is there already, and nothing is overwritten; {free_name(path)} is free"
    if path.suffix.lower() not in (".yaml", ".yml"):
        return f"{path} does not end in .yaml, by which a config is known; {path.with_name(f'{path.name}.yaml')} does"
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}; make it, or choose another"
    return (
        "" if os.access(path.parent, os.W_OK | os.X_OK) else f"{path.parent} cannot be written; choose another folder"
    )


def write(path: Path, text: str) -> None:
    """Create the file, and never touch one that is there.

    Raises:
        SanaError: there is one by now, or it cannot be written; then nothing of it is left.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            try:
                file.write(f"{schema_line(path)}\n{text}")
                file.flush()
            except OSError:
                path.unlink(missing_ok=True)
                raise
    except FileExistsError as error:
        raise SanaError(
            f"{path} came to be meanwhile, and nothing is overwritten; -o {free_name(path)} is free"
        ) from error
    except OSError as error:
        raise SanaError(f"cannot write {path}: {error.strerror}; name another by -o") from error


def head(checked: Checked, hardware: Hardware, training: Training | None, chosen: Fit | None) -> Sequence[str]:
    """Return the comments at the top of the config: what was found."""
    [dataset] = checked.config.download.datasets
    lines = [f"Made by `sana init {dataset.source}` on {datetime.now(UTC):%Y-%m-%d}. What was found:"]
    lines += [f"  {line}" for line in lines_of_source(checked)]
    lines += [f"  this machine: {hardware}"]
    if training is not None and chosen is not None:
        lines.append(f"  training: {_said_of_fits(training, hardware, chosen)}")
    return lines


def _said_of_fits(training: Training, hardware: Hardware, chosen: Fit) -> str:
    """Say what full training and LoRA need of what there is."""
    parts = [f"{name} {in_units(one.peak_bytes)}" for name, one in (("full", training.full), ("LoRA", training.lora))]
    mark = "" if chosen.fits else "; what is chosen does not fit: use smaller buckets, or a device with more memory"
    have = in_units(hardware.device_bytes)
    return f"by counting, {' and '.join(parts)} of {have}, with the largest bucket{mark}"
