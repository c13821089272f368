"""What a run report says of a training, for every way that one may end."""

import pytest

from sana.facts import PairedDifference, WeightsLoss
from sana.report.training.numbers import CURVES, Numbers
from sana.report.training.verdict import Ending, Verdict, verdict
from sana.runtime.results import BaseCheckReport, EvalReport, ProbeVerdict

pytestmark = pytest.mark.timeout(60)

ROWS = [
    {"step": 0, "eval/loss_ema": 1.5, "eval/stderr_ema": 0.01},
    {"step": 20, "eval/loss_ema": 0.75, "eval/stderr_ema": 0.01},
    {"step": 37, "train/loss": 1.0, "eval/loss_ema": 0.875, "eval/stderr_ema": 0.01},
]


def report(difference: float, stderr: float | None, num: int = 40) -> EvalReport:
    weights = {name: WeightsLoss(mean, stderr, ()) for name, mean in (("initial", 2.0), ("ema", 2.0 + difference))}
    paired = {"ema": PairedDifference(difference, stderr, num, -difference / 2.0)}
    return EvalReport("t", 120, num, 8, "", "", weights, paired)


def told(of: EvalReport | None = None, state: str = "completed", error: str = "", **other: object) -> Verdict:
    numbers = Numbers()
    numbers.add(other.pop("rows", ROWS))  # type: ignore[arg-type]
    asked = {"step": 37, "max_steps": 37, "finished": True, **other}
    return verdict(report=of, numbers=numbers, ending=Ending(state, error), **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("difference", "stderr", "num", "tone", "headline"),
    [
        (-0.5, 0.01, 40, "good", "It learned: 25.0 % less eval loss on 40 held-out samples"),
        (-0.022, 0.01, 40, "good", "It learned: 1.1 % less"),
        (-0.02, 0.01, 40, "unsure", "Within noise: no difference that 40 held-out samples can show"),
        (0.019, 0.01, 40, "unsure", "Within noise"),
        (0.5, 0.01, 40, "bad", "It got worse: 25.0 % more eval loss on 40 held-out samples"),
        (-0.5, None, 1, "unsure", "Not sure: 25.0 % less eval loss on a single sample"),
        (0.0, 0.0, 40, "unsure", "It changed nothing: the same eval loss on 40 held-out samples"),
        (-0.5, 0.0, 40, "good", "It learned"),
    ],
)
def test_a_difference_is_told_from_noise_by_two_standard_errors(
    difference: float, stderr: float | None, num: int, tone: str, headline: str
) -> None:
    found = told(report(difference, stderr, num))
    assert found.tone == tone and found.headline.startswith(headline)
    assert f"eval loss 2.0000 before training, {2 + difference:.4f} after" in found.said[0]
    assert f"paired difference {difference:+.4f}" in found.said[0]
    assert ("one sample" in found.said[0]) == (stderr is None)
    assert stderr is None or f"\u00b1 {stderr:.4f}" in found.said[0]


@pytest.mark.parametrize(
    ("asked", "tone", "headline", "said"),
    [
        ({"state": "failed", "error": "the disk\nis full", "finished": False, "max_steps": 120}, "bad",
         "Failed at step 37 of 120", "It ended with: the disk is full"),
        ({"state": "stopped", "finished": False, "max_steps": 120}, "unsure", "Stopped at step 37 of 120", "resumes"),
        ({"state": "silent", "finished": False}, "bad", "No sign of life since step 37 of 37", "killed"),
        ({"state": "running", "finished": False}, "unsure", "Still training: step 37 of 37", "the lowest was 0.7500"),
        ({"state": "", "finished": False, "max_steps": None}, "unsure", "Not finished: step 37", "resumes it"),
        ({"state": "", "finished": False, "rows": []}, "unsure", "Nothing trained yet", "no row"),
        ({"state": "completed"}, "unsure", "Not evaluated yet", "comes with the stage evaluate"),
        ({"state": "failed", "error": "no clips"}, "unsure", "Not evaluated yet", "not evaluated yet: no clips"),
        ({"rows": [{"step": 3, "train/loss": 1.0}]}, "unsure", "Not evaluated yet", "nothing says whether it learns"),
        ({"rows": ROWS[:1]}, "unsure", "Not evaluated yet", "no other to compare"),
        ({"of": report(-0.5, 0.01), "max_steps": 120}, "good", "It learned", "ended it after step 37 of 120"),
        ({"of": report(-0.5, 0.01), "best_step": 20, "step": 20}, "good", "It learned", "are those of step 20"),
    ],
)  # fmt: skip
def test_every_ending_has_words(asked: dict, tone: str, headline: str, said: str) -> None:
    found = told(**asked)
    assert (found.tone, found.headline[: len(headline)]) == (tone, headline)
    assert said in " ".join(found.said)


def test_few_samples_and_a_warned_base_are_told() -> None:
    probes = (ProbeVerdict("captions", "failed", "captions change nothing"), ProbeVerdict("loss", "passed", "fine"))
    base = BaseCheckReport(5, (), {}, (), (), 0.0, 0.0, probes)
    found = told(report(-0.5, 0.01, 5), base=base)
    assert [line.partition(":")[0] for line in found.caveats] == [
        "Base check, captions",
        found.caveats[1].partition(":")[0],
    ]
    assert "5 samples are few" in found.caveats[1] and not told(report(-0.5, 0.01)).caveats


def test_many_rows_keep_extremes_and_the_newest_of_a_step() -> None:
    numbers = Numbers()
    numbers.add(
        {"step": step, "train/loss": 9.0 if step == 123_457 else 1.0, "time/step_s": 0.5} for step in range(450_000)
    )
    numbers.add([{"step": 449_999, "train/loss": 0.25}])
    curve = numbers.curve("train/loss")
    assert len(curve.steps) < 200_000 and float(curve.values.max()) == 9.0
    assert (curve.steps[-1], curve.last) == (449_999, 0.25)
    assert numbers.seconds[""] == (225_000.0, 0.0) and "train/loss" in CURVES
