"""What the terminal shows of a calibration."""

from rich.table import Table
from rich.text import Text

from flows.display.tables import render
from sana.bucket import Bucket
from sana.config.pipeline import Config
from sana.costs.calibration import Calibration, Rate, Trial
from sana.costs.training import how_to_keep
from sana.model.model_configs import ModelSizes

GIB = 2**30


def calibration_lines(measured: Calibration, config: Config, sizes: ModelSizes) -> list[str]:
    """Render the trials and the rates, and what to write into the config."""
    machine = measured.machine
    lines = [
        f"{machine.device}, torch {machine.torch}; {measured.capacity_bytes / GIB:.1f} GiB to use; "
        f"{measured.bucket}, captions of {measured.caption_tokens} tokens",
        render(_trials(measured, sizes.transformer.num_layers)),
        render(_rates(measured)),
    ]
    if measured.chosen is not None:
        micro = measured.chosen.micro_batch_size
        lines.append(f"fastest that fits: {' '.join(f'-s {setting}' for setting in best_settings(measured))}")
        step = sizes.transformer.flops(Bucket.parse(measured.bucket), caption_tokens=measured.caption_tokens)
        rate = step.training / measured.chosen.sample_s / 1e12
        lines.append(f"that is {rate:.3g} TFLOP/s of forward and backward passes, what is computed again not counted")
        now = config.train.resources.micro_batch_size
        if now != micro:
            lines.append(f"the config has micro_batch_size {now}")
    lines.append(f"measured in {measured.seconds:.0f} s")
    return lines


def best_settings(measured: Calibration) -> tuple[str, ...]:
    """Return the settings of the fastest that fits, as `-s` takes them; none where nothing fits."""
    if measured.chosen is None:
        return ()
    micro = measured.chosen.micro_batch_size
    return (how_to_keep(measured.chosen.kept), f"train.resources.micro_batch_size={micro}")


def _trials(measured: Calibration, num_layers: int) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("training", "kept", "micro batch", "s a sample", "first s", "peak GiB", ""):
        table.add_column(name, justify="left" if name in ("training", "") else "right", no_wrap=True)
    for trial in measured.trials:
        what = "whole model" if trial.num_layers == num_layers else f"{trial.num_layers} layers"
        numbers = [f"{trial.kept:.0%}", str(trial.micro_batch_size), *(_times(trial) if trial.fits else ["-"] * 3)]
        note = ("chosen" if trial == measured.chosen else "") if trial.fits else "does not fit"
        table.add_row(what, *numbers, Text(note, style="" if trial.fits else "yellow"))
    return table


def _times(trial: Trial) -> list[str]:
    times = [trial.sample_s, trial.first_step_s]
    return [*(f"{seconds:.3g}" for seconds in times), f"{trial.peak_bytes / GIB:.2f}"]


def _rates(measured: Calibration) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("item", "seconds", "a second", "peak GiB"):
        table.add_column(name, justify="left" if name == "item" else "right", no_wrap=True)
    rates: list[tuple[str, Rate | None]] = [
        ("forward pass of one sample", measured.forward),
        ("clip encoded", measured.encode),
        ("clip decoded", measured.decode),
        ("caption encoded", measured.captions),
    ]
    for name, rate in rates:
        if rate is None:
            table.add_row(name, "-", "-", "does not fit" if measured.chosen or name[0] != "f" else "-")
        else:
            table.add_row(name, f"{rate.seconds:.3g}", f"{1 / rate.seconds:.3g}", f"{rate.peak_bytes / GIB:.2f}")
    return table
