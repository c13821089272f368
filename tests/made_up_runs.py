"""Committed trainings with eval losses that a test chooses, made without a model or a video."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from sana.arrow import table_of, to_parquet
from sana.artifact import Artifact, Draft, Recipe, digest_of
from sana.counts import Counts
from sana.data.schemas import CAPTION_INDEX, CONDITION_LOSSES, LATENT_INDEX, LOSSES
from sana.facts import (
    BASELINE,
    EncodeLatentsFacts,
    EvaluateFacts,
    EvaluateWeightsFacts,
    PairedDifference,
    SampleFacts,
    SigmaLoss,
    TrainFacts,
    WeightsLoss,
)
from sana.runs.records import (
    RunEnd,
    RunEnded,
    RunStarted,
    RunStatus,
    StageStatus,
    end_key,
    start_key,
    status_key,
)
from sana.runtime.process_id import this_process
from sana.stages.train import trajectory_of
from sana.store import Store

Losses = Mapping[str, Sequence[float]]  # by sample, one a noise level


@dataclass(frozen=True)
class Clip:
    """One clip of one window, whose sample has the clip's name; `content` stands for its video and how it is cut."""

    name: str
    split: str = "eval"
    dataset: str = "cats"
    bucket: str = "9x32x32"
    content: str = "as filmed"
    caption: str = "a cat"


@dataclass(frozen=True)
class Data:
    """What encode_latents and encode_captions have of some clips."""

    latents: Artifact
    captions: Artifact


def make_data(store: Store, clips: Sequence[Clip], prompts: Mapping[str, str] | None = None) -> Data:
    """Commit the tables of clips: of latents, of captions, and of windows with their paths."""
    windows = Draft(store, Recipe("bucket", 1, {}, {"clips": digest_of([repr(clip) for clip in clips])}))
    paths = [{"clip_id": clip.name, "dataset": clip.dataset, "path": f"{clip.name}.mp4"} for clip in clips]
    windows.add("clips.parquet", to_parquet(pa.Table.from_pylist(paths)))
    of_windows = digest_of(["windows", [repr(clip) for clip in clips]])
    windows.commit(content={"windows": of_windows}, counts=Counts.all_kept(len(clips)))
    location = {"shard": "none", "offset": 0, "num_bytes": 1, "dtype": "fp16", "shape": [1], "provenance": ""}
    rows = [
        {
            **location,
            "sample_id": clip.name,
            "clip_id": clip.name,
            "dataset": clip.dataset,
            "split": clip.split,
            "draws_per_epoch": 1,
            "bucket": clip.bucket,
            "sample_key": digest_of([clip.content, clip.bucket]),
            "digest": digest_of([clip.content, clip.bucket]),
        }
        for clip in clips
    ]
    latents = Draft(store, Recipe("encode_latents", 1, {}, {"windows": of_windows}))
    latents.add("index.parquet", to_parquet(table_of(rows, LATENT_INDEX)))
    of_split = {split: digest_of([row for row in rows if row["split"] == split]) for split in ("train", "eval")}
    texts = [("prompt", name, text) for name, text in (prompts or {}).items()]
    texts += [(clip.split, clip.name, clip.caption) for clip in clips]
    captions = Draft(store, Recipe("encode_captions", 1, {}, {"texts": digest_of(texts)}))
    of_texts = [
        {
            **location,
            "role": role,
            "name": name,
            "position": 0,
            "text_key": digest_of(text),
            "text": text,
            "template": "none",
            "truncated": False,
            "digest": digest_of(text),
        }
        for role, name, text in texts
    ]
    captions.add("index.parquet", to_parquet(table_of(of_texts, CAPTION_INDEX)))
    of_role = {role: digest_of([text for text in texts if text[0] in roles]) for role, roles in _ROLES.items()}
    counts = Counts.all_kept(len(clips))
    of_train = Counter(clip.dataset for clip in clips if clip.split == "train")
    committed = latents.commit(content=of_split, counts=counts, facts=EncodeLatentsFacts(1, dict(of_train)))
    return Data(committed, captions.commit(content=of_role, counts=counts))


_ROLES = {"train": ("train",), "eval": ("eval",), "prompts": ("prompt",)}


@dataclass(frozen=True)
class Training:
    """What one made-up training committed."""

    train: Artifact
    evaluate: Artifact | None = None
    sample: Artifact | None = None


@dataclass(frozen=True)
class Made:
    """How a made-up training is to be."""

    losses: Losses = field(default_factory=dict)  # of the EMA weights; none: it was not evaluated
    initial: float = 2.0  # each loss before training
    sigmas: Sequence[float] = (0.25, 0.75)
    settings: Mapping[str, Any] = field(default_factory=dict)
    evaluate: Mapping[str, Any] = field(default_factory=dict)
    base: str = "base-1"
    step: int = 100
    conditions: Mapping[str, Losses] = field(default_factory=dict)
    video: bytes = b""  # of the prompt cat
    seed: int = 0


def make_training(store: Store, data: Data, made: Made) -> Training:
    """Commit a training of these data, with its evaluation and its sample, if it has any."""
    read = {
        "latents": data.latents.content["train"],
        "captions": data.captions.content["train"],
        "transformer": made.base,
    }
    settings = {"method": {"name": "full"}, "learning_rate": 1e-3, **made.settings, "max_steps": made.step}
    recipe = Recipe("train", 1, settings, read)
    trajectory = trajectory_of(recipe)
    weights = digest_of([recipe.fingerprint, "weights"])
    draft = Draft(store, recipe)
    draft.add("model/model_index.json", b"{}")
    facts = TrainFacts(trajectory, made.step, f"train/{trajectory}/checkpoints/step_{made.step:08d}/index.json", (), "")
    train = draft.commit(content={"weights": weights}, counts=Counts.all_kept(3), facts=facts)
    evaluated = _evaluate(store, data, made, weights) if made.losses else None
    sampled = _sample(store, data, made, weights) if made.video else None
    return Training(train, evaluated, sampled)


def _evaluate(store: Store, data: Data, made: Made, weights: str) -> Artifact:
    inputs = {
        "latents": data.latents.content["eval"],
        "captions": data.captions.content["eval"],
        "weights": weights,
        "initial_weights": made.base,
    }
    settings = {"num_sigmas": len(made.sigmas), "mixed_precision": "fp32", **made.evaluate}
    draft = Draft(store, Recipe("evaluate", 1, settings, inputs))
    initial = {name: [made.initial] * len(made.sigmas) for name in made.losses}
    rows = _rows("ema", made.losses, made) + _rows(BASELINE, initial, made) + _rows("live", made.losses, made)
    draft.add("losses.parquet", to_parquet(pa.Table.from_pylist(rows, schema=LOSSES)))
    if made.conditions:
        of_conditions = [
            {"condition": label, **row}
            for label, losses in made.conditions.items()
            for row in _rows("ema", losses, made)
        ]
        draft.add("condition_losses.parquet", to_parquet(pa.Table.from_pylist(of_conditions, schema=CONDITION_LOSSES)))
    mean = sum(sum(row) / len(row) for row in made.losses.values()) / len(made.losses)
    per_sigma = tuple(SigmaLoss(sigma, mean, None) for sigma in made.sigmas)
    of_weights = {name: WeightsLoss(mean, 0.01, per_sigma) for name in ("live", "ema")}
    of_weights[BASELINE] = WeightsLoss(made.initial, 0.01, per_sigma)
    drop = PairedDifference(mean - made.initial, 0.01, len(made.losses), 1 - mean / made.initial)
    return draft.commit(
        content={"losses": digest_of(json.loads(json.dumps(rows)))},
        counts=Counts.all_kept(len(made.losses)),
        facts=EvaluateFacts(of_weights, {"live": drop, "ema": drop}, made.step),
    )


def evaluate_on_request(store: Store, data: Data, training: Training, losses: Losses) -> Artifact:
    """Commit the losses of a training's EMA weights on the eval split of these data, as `compare --evaluate` does."""
    trained, made = TrainFacts.of(training.train), Made(losses)
    inputs = {"latents": data.latents.content["eval"], "captions": data.captions.content["eval"], "weights": "x"}
    settings = {"num_sigmas": 2, "mixed_precision": "fp32"}
    draft = Draft(store, Recipe("evaluate_weights", 1, settings, {**inputs, "initial_weights": made.base}))
    draft.add("losses.parquet", to_parquet(pa.Table.from_pylist(_rows("ema", losses, made), schema=LOSSES)))
    facts = EvaluateWeightsFacts("ema", trained.trajectory, trained.step, len(losses))
    return draft.commit(content={"losses": digest_of(list(losses))}, counts=Counts.all_kept(len(losses)), facts=facts)


def _rows(weights: str, losses: Losses, made: Made) -> list[dict[str, Any]]:
    return [
        {"weights": weights, "sample_id": name, "sigma_index": level, "sigma": made.sigmas[level], "loss": loss}
        for name, row in losses.items()
        for level, loss in enumerate(row)
    ]


def _sample(store: Store, data: Data, made: Made, weights: str) -> Artifact:
    inputs = {"prompts": data.captions.content["prompts"], "weights": weights}
    draft = Draft(store, Recipe("sample", 1, {"bucket": "9x32x32", "seed": made.seed, "weights": "ema"}, inputs))
    draft.add("cat.mp4", made.video)
    return draft.commit(
        content={"videos": digest_of(made.video.hex())},
        counts=Counts.all_kept(1),
        facts=SampleFacts({"cat": "cat.mp4"}, "contact_sheet.png"),
    )


def put_run(
    store: Store, run_id: str, title: str, trajectory: str, *, state: RunEnd | None = "completed", fingerprint: str = ""
) -> None:
    """Put what a run has on record: it began at 1000.0 and said something last at 1060.0; state None: no end."""
    started = RunStarted(run_id, title, "key", "root: x", "host", this_process(), 1000.0, "0.1")
    store.put_if_absent(start_key(run_id), started.to_json())
    stage = StageStatus("completed" if fingerprint else "running", 1000.0, None, fingerprint, 7, 20, "steps")
    store.put_if_absent(status_key(run_id, 1), RunStatus(run_id, 1060.0, {"train": stage}, trajectory).to_json())
    if state is not None:
        store.put_if_absent(end_key(run_id), RunEnded(run_id, state, 1060.0, "<b>no\x1b[31m</b>").to_json())
