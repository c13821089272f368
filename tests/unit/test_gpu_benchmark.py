"""`python -m benchmarks.gpu` runs on a CPU too, with the same code: its tables on the tiniest sizes."""

import re

import pytest
import torch

from benchmarks.gpu import checkpoint, evaluation, export, loop, step
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.apart import Measure, Numbers, here
from benchmarks.gpu.machine import heading
from benchmarks.gpu.sizes import TINY


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def eager_only(measure: Measure) -> Measure:
    """A measurement to which only eager settings fit: inductor takes half a minute."""

    def measured(setting: str) -> Numbers | None:
        return None if setting.startswith("compiled") else measure(setting)

    return measured


def test_the_loop_is_compared_with_the_bare_one_and_the_eager_one() -> None:
    head, _, eager, compiled = loop.table(eager_only(here(loop.measure, TINY)))
    bare_s, loop_s, ratio = (float(cell) for cell in cells(eager)[1:4])
    assert cells(head)[1:4] == ["bare loop, s a step", "our whole loop", "against bare"]
    assert bare_s > 0 and loop_s > 0 and 0.3 < ratio < 30
    assert cells(eager)[5] == "1.00x"
    assert cells(compiled)[1] == "does not fit"
    by_hand = {
        loop.EAGER: {"loop_s": 2.0, "bare_s": 1.9, "ratio": 1.05, "cpu_ratio": 1.2},
        "compiled, auto": {"loop_s": 1.0, "bare_s": 0.99, "ratio": 1.01, "cpu_ratio": 1.0},
    }
    assert list(loop.table(by_hand.get))[3] == "| compiled, auto | 0.99 | 1 | 1.010 | 1.000 | 2.00x |"


def test_a_step_has_seconds_memory_and_mfu() -> None:
    found = step.measure(TINY, "eager, auto")
    assert found["kept"] == 1.0  # all of it fits
    assert 0 < found["mfu"] < 1 and found["first_s"] > 0 and found["peak_bytes"] >= 0
    offloaded = step.measure(TINY, "offload, eager")
    assert offloaded["kept"] == 0.0 and offloaded["step_s"] > 0
    rows = list(step.table(lambda setting: found | {"step_s": 1.0 if setting == step.EAGER else 0.5}))
    assert len(rows) == 2 + len(step.SETTINGS)
    assert [cells(row)[4] for row in rows[2:4]] == ["1.00x", "2.00x"]


def test_an_evaluation_a_checkpoint_and_an_export_are_timed() -> None:
    *_, bare, chosen, compiled = evaluation.table(eager_only(here(evaluation.measure, TINY)))
    assert cells(bare)[3] == "1.00" and "(chosen)" in chosen and "does not fit" in compiled
    lines = list(checkpoint.table(here(checkpoint.measure, TINY)))
    assert [cells(line)[0] for line in lines[2:5]] == ["no checkpoints", "training waits", "behind training"]
    assert lines[-1].startswith("\nA checkpoint is of ")
    [*_, total] = export.table(here(export.measure, TINY))
    assert re.fullmatch(r"\| \*\*the end of a training\*\* \| \| \*\*[\d.e-]+\*\* \|", total)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["stop"], "there is no part stop; parts are step, loop, eval"),
        pytest.param(
            ["--sizes", "published"],
            "--sizes cpu prints the same tables",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="would run the benchmark"),
        ),
    ],
)
def test_a_part_or_a_gpu_that_is_not_there_is_an_error(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert says in capsys.readouterr().err


def test_tables_tell_what_they_were_measured_on() -> None:
    assert re.search(r"CPU \(\w+\).*; torch \d.*, CUDA none, diffusers \d.*; commit \w+", heading(TINY))
