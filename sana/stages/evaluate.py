"""Evaluate: the stable eval loss of the initial, live and EMA weights on the held-out split."""

from collections.abc import Mapping
from typing import Any

from sana.artifact import Artifact, Draft, Recipe
from sana.config.pipeline import Config
from sana.context import Context
from sana.counts import Counts
from sana.facts import WEIGHTS, EvaluateFacts, TrainFacts
from sana.model.model_resolver import resolve_model, source_of
from sana.runtime.results import EvalReport
from sana.runtime.specs import CheckpointName, EvaluateSpec
from sana.runtime.worker import files_of_worker

NAME = "evaluate"
VERSION = 1
READS = ("texts", "latents", "weights")
GIVES = ("losses",)


def recipe(context: Context, inputs: Mapping[str, Artifact]) -> Recipe:
    """Reads the eval rows, their captions, and a checkpoint; and the dtype that training computed in."""
    model = resolve_model(context.config.model, work_dir=context.work_dir, read_only=context.read_only)
    train = context.config.train.hashed()
    return Recipe(
        NAME,
        VERSION,
        # how training asks the model: evaluation asks it so too
        context.config.evaluate.hashed()
        | {name: train[name] for name in ("mixed_precision", "text_padding", "weights_dtype") if name in train}
        | _conditions(context.config),
        {
            "latents": inputs["latents"].content["eval"],
            "captions": inputs["texts"].content["eval"],
            "weights": inputs["weights"].content["weights"],
            "initial_weights": model.digests["transformer"],
        },
    )


def _conditions(config: Config) -> dict[str, Any]:
    found = {label: condition.hashed() for label, condition in config.evaluated_conditions.items()}
    for settings in found.values():
        del settings["probability"]  # each is in every sample
    return {"conditions_of_training": found} if found else {}


def remaining(context: Context, inputs: Mapping[str, Artifact]) -> tuple[int, int, str]:
    """Return (done, total, unit) of the work at hand."""
    return 0, len(WEIGHTS), "sets of weights"


def run(context: Context, inputs: Mapping[str, Artifact], recipe: Recipe) -> Artifact:
    """Write `losses.parquet`, `report.json` and `eval_loss.png`; and those with conditions where there are any."""
    draft = Draft(context.store, recipe, forced=bool(context.salt))
    model = resolve_model(context.config.model, work_dir=context.work_dir)
    trained = TrainFacts.of(inputs["weights"])

    def spec(out_dir: str) -> EvaluateSpec:
        return EvaluateSpec(
            model=source_of(model),
            latents=inputs["latents"],
            captions=inputs["texts"],
            checkpoint=CheckpointName(trained.trajectory, trained.step),
            out_dir=out_dir,
        )

    files = files_of_worker(context, spec)
    for name, data in files.items():
        draft.add(name, data)
    report = EvalReport.from_json(files[EvalReport.FILE], where=f"{NAME}: {EvalReport.FILE}", repair_hint="run again")
    return draft.commit(
        content={"losses": report.losses_digest}
        | ({"condition_losses": report.condition_losses_digest} if report.conditions else {}),
        counts=Counts.all_kept(report.num_samples),
        facts=EvaluateFacts(report.weights, report.paired, report.step, report.conditions),
    )
