"""What came of a pipeline, for the top of its data report: the verdict, the loss by noise level, sampled frames."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sana.artifact import Artifact
from sana.errors import SanaError
from sana.facts import EvaluateFacts, SampleFacts, TrainFacts
from sana.report.charts import Chart
from sana.report.states import StageState
from sana.report.training.evaluated import sigma_chart
from sana.report.training.numbers import Numbers
from sana.report.training.posters import Posters
from sana.report.training.subject import read_record
from sana.report.training.verdict import Ending, Verdict, verdict
from sana.runtime.results import BaseCheckReport, EvalReport
from sana.store import Store

_MAX_PROMPTS, _FRAMES = 4, 4


@dataclass(frozen=True)
class Sampled:
    """Frames of one sampled video, as JPEG in base64; `why` there are none."""

    prompt: str
    frames: Sequence[str]
    why: str = ""


@dataclass(frozen=True)
class Result:
    """`chart`: once it is evaluated; `sampled`: once it is sampled, with the number of prompts that are not shown."""

    verdict: Verdict
    chart: Chart | None
    sampled: Sequence[Sampled]
    num_left_out: int


def result(store: Store, artifacts: Mapping[str, Artifact], states: Sequence[StageState]) -> Result | None:
    """Say what came of it; None while nothing is trained and nothing failed to.

    Raises:
        SanaError: the evaluation's numbers are gone or damaged.
    """
    failed = {state.name: state.why for state in states if state.state == "failed"}
    train = artifacts.get("train")
    if train is None:
        if "train" not in failed:
            return None
        return Result(Verdict("bad", "Training failed", (failed["train"],) if failed["train"] else (), ()), None, (), 0)
    evaluated = artifacts.get("evaluate")
    report = read_record(store, evaluated, EvalReport)
    why = failed.get("evaluate", "")
    max_steps = train.config.get("max_steps")
    found = verdict(
        report=report,
        numbers=Numbers(),
        ending=Ending("failed" if why else "completed", why),
        step=TrainFacts.of(train).step,
        max_steps=max_steps if isinstance(max_steps, int) else None,
        finished=True,
        base=read_record(store, artifacts.get("check_base"), BaseCheckReport),
    )
    sample = artifacts.get("sample")
    names = sorted(SampleFacts.of(sample).videos.items()) if sample else []
    posters = Posters(store)
    sampled = [_sampled(posters, sample, name, file) for name, file in names[:_MAX_PROMPTS]] if sample else []
    chart = sigma_chart(EvaluateFacts.of(evaluated).weights, width=520, height=290) if evaluated else None
    return Result(found, chart, sampled, len(names) - len(sampled))


def _sampled(posters: Posters, sample: Artifact, prompt: str, file: str) -> Sampled:
    try:
        return Sampled(prompt, posters.of(sample.files[file], _FRAMES))
    except FileNotFoundError:
        return Sampled(prompt, (), "it is gone")
    except (SanaError, OSError) as error:
        return Sampled(prompt, (), f"it cannot be read: {error}")
