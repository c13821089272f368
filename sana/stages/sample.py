"""Sample: one video per validation prompt, and a contact sheet, from the trained weights and cached embeddings."""

import json
from collections.abc import Mapping

from sana.artifact import Artifact, Draft, Recipe
from sana.context import Context
from sana.data.weights import resolve_model
from sana.stages.worker import run_on_checkpoint

NAME = "sample"
VERSION = 2
INPUTS = ("encode_captions", "train")


def recipe(context: Context, inputs: Mapping[str, Artifact]) -> Recipe:
    """Reads the prompts' embeddings, the weights, and what turns latents into pixels. Prompts' texts are not read."""
    model = resolve_model(context.config.model, work_dir=context.work_dir, read_only=context.read_only)
    config = context.config.sample.hashed()
    del config["prompts"], config["negative_prompt"]
    return Recipe(
        NAME,
        VERSION,
        {**config, "mixed_precision": context.config.train.mixed_precision},
        {
            "prompts": inputs["encode_captions"].content["prompts"],
            "weights": inputs["train"].content["weights"],
            "vae": model.digests["vae"],
            "scheduler": model.digests["scheduler"],
        },
    )


def remaining(context: Context, inputs: Mapping[str, Artifact]) -> tuple[int, int, str]:
    """Return (done, total, unit) of the work at hand."""
    return 0, len(context.config.sample.prompts), "videos"


def run(context: Context, inputs: Mapping[str, Artifact]) -> Artifact:
    """Write `<nickname>.mp4` for each prompt, `videos.json` and `contact_sheet.png`."""
    draft = Draft(context.store, recipe(context, inputs), forced=bool(context.salt))
    files = run_on_checkpoint(context, NAME, {name: inputs[name] for name in INPUTS})
    for name, data in files.items():
        draft.add(name, data)
    result = json.loads(files["videos.json"])
    num_prompts = len(result["videos"])
    return draft.commit(
        content={"videos": result["videos_digest"]},
        counts={"in": num_prompts, "out": num_prompts, "refused": 0},
        facts={"videos": result["videos"], "contact_sheet": "contact_sheet.png"},
    )
