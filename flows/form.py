"""What Prefect's form shows of the flows' parameters: select boxes for stages, and names for runs.

The schema of each type is the one that its field needs. No default is null: of a choice between a type and null the
form makes a menu of its own, and of any other it sends the null, which the schema does not allow.
"""

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from prefect import runtime
from pydantic import WithJsonSchema

from sana.pipeline.graph import STAGES
from sana.wording import one_line

PREPARING = STAGES[: STAGES.index("encode_latents") + 1]
TRAINING = STAGES[STAGES.index("train") :]
ALL = "all"  # stages that the config uses
NEWEST = -1  # checkpoint
_PIPELINE = "sana-video"  # the flow with all stages, whose name is in none of its runs'
_GENERATED = r"[A-Za-z]+\d*-[A-Za-z]+"  # ochre-tapir or, in forms, alpha6-orelious: nobody has named the run
_MOST_CHARS = 80  # of a config's name in a run's


def _choice(names: tuple[str, ...]) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "enum": list(names)})


_TEXTS = WithJsonSchema({"type": "array", "items": {"type": "string"}})
_STAGES = WithJsonSchema({"type": "array", "items": {"type": "string", "enum": list(STAGES)}, "uniqueItems": True})

if TYPE_CHECKING:  # a type checker knows no Literal of a tuple that is made elsewhere
    Stage: TypeAlias = str
    PreparingStage: TypeAlias = str
    TrainingStage: TypeAlias = str
else:
    Stage, PreparingStage, TrainingStage = Literal[(ALL, *STAGES)], Literal[PREPARING], Literal[TRAINING]

Until = Annotated[Stage | None, _choice((ALL, *STAGES))]
PrepareUntil = Annotated[PreparingStage, _choice(PREPARING)]
TrainUntil = Annotated[TrainingStage, _choice(TRAINING)]
Force = Annotated[Sequence[Stage] | None, _STAGES]
Overrides = Annotated[Sequence[str] | None, _TEXTS]
Root = Annotated[str | None, WithJsonSchema({"type": "string"})]
Step = Annotated[int | None, WithJsonSchema({"type": "integer", "minimum": NEWEST})]


def run_name() -> str:
    """Name the flow run at work by its config, what it does and when it was due: `demo until train, 2026-11-28 15:40`.

    A name that somebody gave it is kept, and so is this one when the run is retried.
    """
    given = str(runtime.flow_run.name or "")
    if given and not re.fullmatch(_GENERATED, given):
        return given
    due = runtime.flow_run.scheduled_start_time
    return f"{_described(runtime.flow_run.flow_name or _PIPELINE, runtime.flow_run.parameters)}, {due:%Y-%m-%d %H:%M}"


def _described(flow: str, parameters: dict[str, Any]) -> str:
    """Return such as `demo`, `demo until train`, `demo prepare`, `demo validation of step 200`."""
    name = "".join(char for char in PurePath(str(parameters.get("config"))).stem if char.isprintable())
    words = [one_line(name, most=_MOST_CHARS) or "no config"]
    if flow != _PIPELINE:
        words.append(flow.removeprefix("sana-"))
    if parameters.get("until") not in (None, ALL, flow.removeprefix("sana-"), PREPARING[-1]):
        words.append(f"until {parameters['until']}")
    if parameters.get("step") not in (None, NEWEST):
        words.append(f"of step {parameters['step']}")
    if "index" in parameters:
        words.append(f"{parameters['index'] + 1} of {parameters['count']}")
    return " ".join(words)
