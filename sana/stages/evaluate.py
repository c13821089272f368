"""Evaluate: the stable eval loss of the initial, live and EMA weights on the held-out split."""

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from sana.artifact import Artifact, Draft, Recipe
from sana.context import Context
from sana.data.weights import resolve_model
from sana.stages.worker import run_worker

NAME = "evaluate"
VERSION = 1
INPUTS = ("encode_captions", "encode_latents", "train")


def recipe(context: Context, inputs: Mapping[str, Artifact]) -> Recipe:
    """Reads the eval rows, their captions, and a checkpoint; and the dtype that training computed in."""
    model = resolve_model(context.config.model, work_dir=context.work_dir, read_only=context.read_only)
    return Recipe(
        NAME,
        VERSION,
        {**context.config.evaluate.hashed(), "mixed_precision": context.config.train.mixed_precision},
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
    draft = Draft(context.store, recipe(context, inputs))
    model = resolve_model(context.config.model, work_dir=context.work_dir)
    facts = inputs["train"].facts
    with TemporaryDirectory(dir=context.work_dir, prefix="evaluate-") as folder:
        spec = {
            "trajectory": facts["trajectory"],
            "step": facts["step"],
            "model_path": model.path,
            "model_revision": model.revision,
            "out_dir": folder,
        }
        run_worker(context, NAME, {name: inputs[name] for name in INPUTS}, spec)
        for path in sorted(Path(folder).iterdir()):
            draft.add(path.name, path.read_bytes())
        report = json.loads((Path(folder) / "report.json").read_text(encoding="utf-8"))
    num_samples = report["num_samples"]
    return draft.commit(
        content={"losses": report["losses_digest"]},
        counts={"in": num_samples, "out": num_samples, "refused": 0},
        facts={"weights": report["weights"], "paired": report["paired"], "step": facts["step"]},
    )
