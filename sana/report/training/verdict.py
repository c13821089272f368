"""Whether a training learned, in words: on what, by how much, how sure that is; and what is not known."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sana import metrics as m
from sana.facts import PairedDifference
from sana.report.formatting import number
from sana.report.training.numbers import Numbers
from sana.runtime.results import BaseCheckReport, EvalReport
from sana.wording import counted, one_line

Tone = Literal["good", "bad", "unsure"]
SURE_STDERRS = 2.0  # standard errors of the paired difference, from which on it is told from noise
_FEW_SAMPLES = 10
_WEIGHTS = {"ema": "EMA weights", "live": "live weights"}


@dataclass(frozen=True)
class Ending:
    """How the last run that worked on it ended: completed, failed, stopped, killed, running, silent; "": not known."""

    state: str = ""
    error: str = ""


@dataclass(frozen=True)
class Verdict:
    """A headline, what it rests on, and what to bear in mind; `tone`: how it is coloured."""

    tone: Tone
    headline: str
    said: tuple[str, ...]
    caveats: tuple[str, ...]


def compared(paired: PairedDifference) -> tuple[Tone, str]:
    """Return the tone and a few words for a paired difference: below 0 by 2 standard errors is better."""
    difference, stderr = paired.difference, paired.stderr
    if difference == 0:
        return "unsure", "no difference"
    direction = "lower" if difference < 0 else "higher"
    if stderr is None:
        return "unsure", f"{direction}, and one sample does not say how sure that is"
    if abs(difference) <= SURE_STDERRS * stderr:
        return "unsure", "not to be told from noise"
    return ("good" if difference < 0 else "bad"), f"surely {direction}"


def verdict(
    *,
    report: EvalReport | None,
    numbers: Numbers,
    ending: Ending,
    step: int,
    max_steps: int | None,
    finished: bool,
    best_step: int | None = None,
    base: BaseCheckReport | None = None,
) -> Verdict:
    """Say what is known of a training.

    Args:
        step: of the weights that are reported on, or the last that was measured.
        finished: whether its artifact is committed.
        best_step: which checkpoint was chosen, where early stopping chose one.
    """
    caveats = _caveats(report, base)
    of = f" of {number(max_steps)}" if max_steps else ""
    ended_early = finished and max_steps is not None and numbers.last_step < max_steps and numbers.num_rows > 0
    about = []
    if ended_early:
        about.append(f"Early stopping ended it after step {number(numbers.last_step)}{of}.")
    if best_step is not None and finished:
        about.append(f"The weights reported on are those of step {number(step)}, which had the lowest eval loss.")
    if not finished:
        tone, headline, told = _unfinished(ending, numbers, of)
        return Verdict(tone, headline, (*told, *_while_training(numbers)), caveats)
    if report is None:
        why = f": {one_line(ending.error)}" if ending.state == "failed" and ending.error else ""
        told = (
            f"It was trained for {number(step)} {'step' if step == 1 else 'steps'}, and its weights are not evaluated "
            f"yet{why}. The paired difference on held-out samples, which says whether it learned, comes with the stage "
            "evaluate.",
            *_while_training(numbers),
        )
        return Verdict("unsure", "Not evaluated yet", (*about, *told), caveats)
    paired = report.paired["ema"]
    tone = compared(paired)[0]
    clips = counted(report.num_samples, "held-out sample")
    share = f"{abs(paired.relative_drop):.1%}".replace("%", " %")
    if tone == "good":
        headline = f"It learned: {share} less eval loss on {clips}"
    elif tone == "bad":
        headline = f"It got worse: {share} more eval loss on {clips}"
    elif paired.difference == 0:
        headline = f"It changed nothing: the same eval loss on {clips}"
    elif paired.stderr is None:
        headline = f"Not sure: {share} {'less' if paired.difference < 0 else 'more'} eval loss on a single sample"
    else:
        headline = f"Within noise: no difference that {clips} can show"
    told = tuple(_sentence(report, name, found) for name, found in sorted(report.paired.items()))  # ema, then live
    return Verdict(tone, headline, (*told, *about), caveats)


def _sentence(report: EvalReport, name: str, paired: PairedDifference) -> str:
    before, after = report.weights["initial"].mean, report.weights[name].mean
    said = f"{_WEIGHTS.get(name, name)}: eval loss {before:.4f} before training, {after:.4f} after; paired difference "
    said += f"{paired.difference:+.4f}"
    if paired.stderr is None:
        return f"{said}, without a standard error: there is one sample."
    said += f" \u00b1 {paired.stderr:.4f} (standard error over {counted(paired.num_samples, 'sample')})"
    times = f", {abs(paired.difference) / paired.stderr:.1f} standard errors from 0" if paired.stderr else ""
    return f"{said}{times}: {compared(paired)[1]}."


def _unfinished(ending: Ending, numbers: Numbers, of: str) -> tuple[Tone, str, tuple[str, ...]]:
    at = f"step {number(numbers.last_step)}{of}"
    why = f"It ended with: {one_line(ending.error)}" if ending.error else "What ended it is not on record."
    match ending.state:
        case "failed":
            return "bad", f"Failed at {at}", (why,)
        case "stopped":
            asked = f"It was {one_line(ending.error)}." if ending.error.startswith("stopped ") else ""
            return "unsure", f"Stopped at {at}", (asked or "It was asked to stop; the same command resumes it.",)
        case "running":
            return "unsure", f"Still training: {at}", ()
        case "killed":
            return (
                "bad",
                f"Killed at {at}",
                ("Its process is gone without a word; the same command resumes it.",),
            )
        case "silent":
            return "bad", f"No sign of life since {at}", ("Its process was killed, or cannot write any more.",)
        case _ if not numbers.num_rows:
            return "unsure", "Nothing trained yet", ("There is no row of metrics.",)
        case _:
            return "unsure", f"Not finished: {at}", ("The same command resumes it.",)


def _while_training(numbers: Numbers) -> tuple[str, ...]:
    """What the evaluations while training say, which is less than a paired difference does."""
    ema, error = numbers.curve(m.EVAL_LOSS_EMA), numbers.curve(m.EVAL_STDERR_EMA)
    if not len(ema.values):
        return ("No eval loss was measured while it trained, so nothing says whether it learns.",) * bool(
            numbers.num_rows
        )
    spread: Mapping[float, float] = dict(zip(error.steps.tolist(), error.values.tolist(), strict=True))

    def at(place: int) -> str:
        around = spread.get(float(ema.steps[place]))
        band = "" if around is None else f" \u00b1 {around:.4f}"
        return f"{ema.values[place]:.4f}{band} at step {number(ema.steps[place])}"

    if len(ema.values) == 1:
        return (f"The eval loss of the EMA weights was {at(0)}; there is no other to compare it with.",)
    lowest = int(ema.values.argmin())
    beyond = "" if lowest == len(ema.values) - 1 else f"; the lowest was {at(lowest)}"
    return (f"While it trained the eval loss of the EMA weights went from {at(0)} to {at(-1)}{beyond}.",)


def _caveats(report: EvalReport | None, base: BaseCheckReport | None) -> tuple[str, ...]:
    found = [f"Base check, {one.probe}: {one.said}" for one in base.failed] if base else []
    if report is not None and 1 < report.num_samples < _FEW_SAMPLES:
        found.append(
            f"{report.num_samples} samples are few: a standard error of so few is itself a guess, and they may be of "
            "one scene. More held-out clips make the verdict surer."
        )
    return tuple(found)
