"""Sample: one video per validation prompt, and a contact sheet, from the trained weights and cached embeddings."""

from collections.abc import Mapping
from typing import Any

from sana.artifact import Artifact, Draft, Recipe
from sana.config.sample import SampleConfig
from sana.context import Context
from sana.counts import Counts
from sana.data.given_files import given_digest
from sana.data.picture_file import picture_digest
from sana.facts import SampleFacts, TrainFacts
from sana.model.model_resolver import resolve_model, source_of
from sana.runtime.results import SampleResult
from sana.runtime.specs import CheckpointName, SampleSpec
from sana.runtime.worker import files_of_worker

NAME = "sample"
VERSION = 2
READS = ("texts", "latents", "weights")
GIVES = ("videos",)


def recipe(context: Context, inputs: Mapping[str, Artifact]) -> Recipe:
    """Reads the prompts' embeddings, the weights, and what turns latents into pixels. Prompts' texts are not read.

    Latents are for previews, which change no video.
    """
    model = resolve_model(context.config.model, work_dir=context.work_dir, read_only=context.read_only)
    config = context.config.sample.hashed()
    del config["prompts"], config["negative_prompt"]
    return Recipe(
        NAME,
        VERSION,
        {**config, **_kept(context.config.sample), "mixed_precision": context.config.train.mixed_precision},
        {
            "prompts": inputs["texts"].content["prompts"],
            "weights": inputs["weights"].content["weights"],
            "vae": model.digests["vae"],
            "scheduler": model.digests["scheduler"],
            **_image_digests(context.config.sample),
            **_video_digests(context.config.sample),
        },
    )


def _image_digests(config: SampleConfig) -> dict[str, str]:
    """Raises ConfigError: one of the pictures is not there, or is none."""
    return {
        f"image of {name}": picture_digest(path, where=f"sample.images.{name}")
        for name, path in sorted(config.images.items())
    }


def _kept(config: SampleConfig) -> dict[str, Any]:
    """Return what is kept of the videos that others are made from."""
    found = {given.prompt: {"keep": given.keep, "frames": given.frames} for given in config.videos}
    return {"videos": found} if found else {}


def _video_digests(config: SampleConfig) -> dict[str, str]:
    """Raises ConfigError: one of the files is not there."""
    return {
        f"{what} of {given.prompt}": digest
        for place, given in enumerate(config.videos)
        for what, digest in given_digest(given, where=f"sample.videos.{place}").items()
    }


def remaining(context: Context, inputs: Mapping[str, Artifact]) -> tuple[int, int, str]:
    """Return (done, total, unit) of the work at hand."""
    return 0, len(context.config.sample.prompts), "videos"


def run(context: Context, inputs: Mapping[str, Artifact], recipe: Recipe) -> Artifact:
    """Write `<nickname>.mp4` for each prompt, `videos.json` and `contact_sheet.png`."""
    draft = Draft(context.store, recipe, forced=bool(context.salt))
    model = resolve_model(context.config.model, work_dir=context.work_dir)
    trained = TrainFacts.of(inputs["weights"])

    def spec(out_dir: str) -> SampleSpec:
        return SampleSpec(
            model=source_of(model),
            captions=inputs["texts"],
            checkpoint=CheckpointName(trained.trajectory, trained.step),
            out_dir=out_dir,
            latents=inputs["latents"] if context.config.sample.preview_every else None,
        )

    files = files_of_worker(context, spec)
    for name, data in files.items():
        draft.add(name, data)
    where = f"{NAME}: {SampleResult.FILE}"
    result = SampleResult.from_json(files[SampleResult.FILE], where=where, repair_hint="run again")
    return draft.commit(
        content={"videos": result.videos_digest},
        counts=Counts.all_kept(len(result.videos)),
        facts=SampleFacts(result.videos, contact_sheet="contact_sheet.png"),
    )
