"""Evaluate: the stable eval loss of the initial, live and EMA weights on the held-out split."""

import json
from collections.abc import Mapping

from sana.artifact import Artifact, Draft, Recipe
from sana.context import Context
from sana.data.weights import resolve_model
from sana.stages.worker import run_on_checkpoint

NAME = "evaluate"
VERSION = 1
INPUTS = ("encode_captions", "encode_latents", "train")


def recipe(context: Context, inputs: Mapping[str, Artifact]) -> Recipe:
    """Reads the eval rows, their captions, and a checkpoint; and the dtype that training computed in."""
    model = resolve_model(context.config.model, work_dir=context.work_dir, read_only=context.read_only)
    train = context.config.train.hashed()
    return Recipe(
        NAME,
        VERSION,
        # how training asks the model: evaluation asks it so too
        context.config.evaluate.hashed()
        | {name: train[name] for name in ("mixed_precision", "text_padding") if name in train},
        {
            "latents": inputs["encode_latents"].content["eval"],
            "captions": inputs["encode_captions"].content["eval"],
            "weights": inputs["train"].content["weights"],
            "initial_weights": model.digests["transformer"],
        },
    )


def remaining(context: Context, inputs: Mapping[str, Artifact]) -> tuple[int, int, str]:
    """Return (done, total, unit) of the work at hand."""
    return 0, 3, "sets of weights"


def run(context: Context, inputs: Mapping[str, Artifact]) -> Artifact:
    """Write `losses.parquet`, `report.json` and `eval_loss.png`."""
    draft = Draft(context.store, recipe(context, inputs), forced=bool(context.salt))
    files = run_on_checkpoint(context, NAME, {name: inputs[name] for name in INPUTS})
    for name, data in files.items():
        draft.add(name, data)
    report = json.loads(files["report.json"])
    num_samples = report["num_samples"]
    return draft.commit(
        content={"losses": report["losses_digest"]},
        counts={"in": num_samples, "out": num_samples, "refused": 0},
        facts={"weights": report["weights"], "paired": report["paired"], "step": report["step"]},
    )
