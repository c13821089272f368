"""What a publication is made of: the files of the training's export, its card, and the settings without places."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from sana.artifact import Artifact, FileInfo
from sana.config.delivery.publish import PublishConfig
from sana.config.pipeline import Config
from sana.config.places import at_home
from sana.config.section import Section
from sana.context import Context
from sana.delivery.model_card import SAMPLES, Card, DatasetLine, LossLine, Shape
from sana.facts import WEIGHTS, BucketFacts, EncodeLatentsFacts, EvaluateFacts, SampleFacts, TrainFacts
from sana.model.model_resolver import resolve_model
from sana.training.checkpoints.checkpoint import checkpoint_steps
from sana.wording import counted

EXPORT, MERGED, PASSPORT = "model/", "merged/", "passport.json"  # of the names of a train artifact's files
INDEX = "model_index.json"  # of a whole pipeline; an adapter has none
_NOT_TOLD = ("download", "model", "tracking", "notifications", "publish")
_HUB_DATA = "hf://datasets/"


def config_of(context: Context) -> PublishConfig:
    """Return the section, which a run with this stage has."""
    publish = context.config.publish
    assert publish is not None
    return publish


def exported_files(trained: Artifact, *, with_merged: bool) -> dict[str, FileInfo]:
    """Return the files of a training's exports by their names in a repository.

    Of an adapter the merged model, as large as the base, is left out unless asked for, or all that there is.
    """
    files = {name.removeprefix(EXPORT): info for name, info in trained.files.items() if name.startswith(EXPORT)}
    others = {name: info for name, info in files.items() if not name.startswith(MERGED)}
    if not any(name.endswith(".safetensors") for name in others):
        files = {name.removeprefix(MERGED): info for name, info in files.items()}
    elif not with_merged:
        files = others
    return {**files, **({PASSPORT: trained.files[PASSPORT]} if PASSPORT in trained.files else {})}


def sample_files(inputs: Mapping[str, Artifact]) -> dict[str, FileInfo]:
    """Return the videos and the sheet of stage sample, and the plot of evaluate, by their names in a repository."""
    samples = {
        f"{SAMPLES}/{name}": info
        for name, info in inputs["videos"].files.items()
        if name.endswith((".mp4", "contact_sheet.png"))
    }
    return {**samples, "eval_loss.png": inputs["losses"].files["eval_loss.png"]}


def kept_checkpoints(context: Context, trained: Artifact) -> list[int]:
    """Return the steps before the last whose checkpoints are there, where they are asked for."""
    if config_of(context).what == "final":
        return []
    facts = TrainFacts.of(trained)
    return [step for step in checkpoint_steps(context.store, facts.trajectory) if step < facts.step]


def make_card(context: Context, inputs: Mapping[str, Artifact]) -> Card:
    """Gather what the card of the trained weights says, in one order: facts that were stored have their keys sorted.

    Places of this machine are not told.
    """
    config, publish, trained = context.config, config_of(context), inputs["weights"]
    model = resolve_model(config.model, work_dir=context.work_dir, read_only=context.read_only)
    sampled, evaluated = SampleFacts.of(inputs["videos"]), EvaluateFacts.of(inputs["losses"])
    facts, bucket = TrainFacts.of(trained), config.sample.shape
    exported = exported_files(trained, with_merged=publish.merged)
    return Card(
        title=publish.title or (publish.repository or "Sana Video").rpartition("/")[2],
        description=publish.description,
        load_from=publish.repository or "FOLDER",
        load_revision="",
        on_hub=publish.repository is not None,
        is_adapter=INDEX not in exported,
        has_merged=f"{MERGED}{INDEX}" in exported,
        base_model=(model.path if model.revision is not None else publish.base_model) or "",
        base_revision=model.revision or "",
        base_license=publish.base_license or "",
        license=publish.license,
        license_name=publish.license_name,
        license_link=publish.license_link,
        tags=publish.tags,
        datasets=[
            DatasetLine(one.id, _public(one.source), publish.licenses.get(one.id, ""))
            for one in config.download.enabled
        ],
        training=_training(config, facts.step, inputs),
        losses=[
            LossLine(name, loss.mean, loss.stderr, *_paired(evaluated, name))
            for name in WEIGHTS
            if (loss := evaluated.weights.get(name)) is not None
        ],
        num_eval_samples=inputs["losses"].counts.num_out,
        prompts=config.sample.prompts,
        videos=dict(sorted(sampled.videos.items())),
        shape=Shape(
            bucket.width,
            bucket.height,
            bucket.num_frames,
            config.sample.num_inference_steps,
            config.sample.guidance_scale,
            config.sample.fps,
            config.sample.seed,
            config.sample.negative_prompt,
        ),
        checkpoints=kept_checkpoints(context, trained),
    )


def card_of_checkpoint(card: Card, step: int) -> Card:
    """Return the card of a checkpoint on the way: nothing was evaluated or sampled of it."""
    name = f"step-{step:08d}"
    training = {**card.training, "steps": f"{step}, a checkpoint on the way to {card.training['steps']}"}
    return replace(
        card,
        title=f"{card.title}, step {step}",
        load_revision=name if card.on_hub else "",
        losses=(),
        videos={},
        has_merged=False,
        training=training,
        checkpoints=(),
    )


def settings_yaml(config: Config) -> str:
    """Return the settings that change bytes as YAML: without places, resources, addresses and secrets."""
    model = config.model.path if not at_home(config.model.path).exists() else "a local folder"
    told: dict[str, Any] = {
        "model": {"path": model, "revision": config.model.revision},
        "download": {
            "datasets": [
                {
                    "id": one.id,
                    "source": _public(one.source) or "not public",
                    "role": one.role,
                    "repeats": one.repeats,
                    "sampling_weight": one.sampling_weight,
                }
                for one in config.download.enabled
            ]
        },
    }
    for name in type(config).model_fields:
        section = getattr(config, name)
        if name not in _NOT_TOLD and isinstance(section, Section):
            told[name] = _without_paths(section.hashed())
    return yaml.safe_dump(told, sort_keys=False, allow_unicode=True)


def _training(config: Config, steps: int, inputs: Mapping[str, Artifact]) -> dict[str, str]:
    train, bucket = config.train, BucketFacts.of(inputs["windows"])
    samples = sum(EncodeLatentsFacts.of(inputs["latents"]).train_samples.values())
    fps = config.bucket.target_fps
    hours = f", {bucket.frames_used / fps / 3600:.2g} hours at {fps:g} frames a second" if fps else ""
    method = "all weights of the transformer"
    if train.method.name == "lora":
        method = f"{'DoRA' if train.method.use_dora else 'LoRA'} of rank {train.method.rank}"
    return {
        "method": method,
        "steps": str(steps),
        "global batch size": str(train.global_batch_size),
        "clips": f"{counted(samples, 'sample')} to train on; of all, {bucket.frames_used} frames are used{hours}",
        "buckets": ", ".join(name for name, one in sorted(bucket.buckets.items()) if one.train),
        "optimizer": f"{train.optimizer.name}, learning rate {train.learning_rate:g}, {train.lr_schedule.name}",
        "precision": train.mixed_precision,
        "seed": str(train.seed),
    }


def _paired(facts: EvaluateFacts, name: str) -> tuple[float | None, float | None]:
    paired = facts.paired.get(name)
    return (None, None) if paired is None else (paired.difference, paired.stderr)


def _public(source: str) -> str:
    """Return the address of a data set on the hub; "" of a folder or a bucket, which says who and where."""
    return source.partition("@")[0] if source.startswith(_HUB_DATA) else ""


def _without_paths(value: Any) -> Any:
    """Replace what names a file or folder of this machine."""
    if isinstance(value, Mapping):
        return {name: _without_paths(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(part) for part in value]
    if isinstance(value, str) and (value.startswith(("/", "~")) or ("/" in value and _exists(value))):
        return "a local path"
    return value


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # too long: a prompt
        return False
