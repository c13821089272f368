"""A synthetic store to train from: random latents of two buckets and random captions, through the real writers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sana.arrow import table_of, to_parquet
from sana.artifact import Artifact, Draft, Recipe
from sana.bucket import Bucket
from sana.config.load import check
from sana.config.pipeline import Config
from sana.config.training.resources import TrainResources
from sana.counts import Counts
from sana.data.schemas import CAPTION_INDEX, LATENT_INDEX, MASK_INDEX
from sana.data.shards.shard import Location, write_shard
from sana.data.tables import content_digest, read_table
from sana.facts import EncodeLatentsFacts
from sana.model.random import philox_normal
from sana.model.tiny_model import CAPTION_CHANNELS
from sana.progress import Progress
from sana.runtime.job import Job, read_job, write_job
from sana.runtime.specs import CheckpointName, EvaluateSpec, ModelSource, TrainSpec
from sana.store import Store, open_store

BUCKETS = ("5x64x96", "5x96x64")  # latents [16, 2, 8, 12] and [16, 2, 12, 8]
NUM_TRAIN, NUM_EVAL = 11, 4


@dataclass(frozen=True)
class Encoded:
    """A store and the two artifacts in it that training reads."""

    store: Store
    latents: Artifact
    captions: Artifact


def build_encoded(
    root: Path | str,
    *,
    num_train: int = NUM_TRAIN,
    num_eval: int = NUM_EVAL,
    scale: float = 1.0,
    datasets: Sequence[str] = ("demo",),
    row_draws: Callable[[int], int] = lambda _: 1,
    prompts: Sequence[str] = (),
) -> Encoded:
    """Write both encode artifacts. Clip i has 1 + i % 2 captions, of 3 to 8 tokens, and is of each data set in turn.

    `prompts` are nicknames; with them there is a negative prompt, which is the null caption.
    """
    store = open_store(str(root))
    splits = ["train"] * num_train + ["eval"] * num_eval
    clips = [(f"clip{i:04d}", split, BUCKETS[i % 3 % 2]) for i, split in enumerate(splits)]
    of_clip = {
        clip[0]: {"dataset": datasets[i % len(datasets)], "draws_per_epoch": row_draws(i)}
        for i, clip in enumerate(clips)
    }
    return Encoded(store, _latents(store, clips, scale, of_clip), _captions(store, clips, prompts))


def _latents(
    store: Store, clips: list[tuple[str, str, str]], scale: float, of_clip: Mapping[str, Mapping[str, Any]]
) -> Artifact:
    rows: list[dict[str, Any]] = []
    for bucket in BUCKETS:  # one bucket per shard
        members = [clip for clip in clips if clip[2] == bucket]
        tensors = {}
        for clip_id, _, _ in members:
            # a fixed pattern under noise, so that there is something to learn
            shape = Bucket.parse(bucket).latent_shape
            pattern = philox_normal(shape, key=("pattern", bucket))
            tensors[f"{clip_id}-0"] = (scale * (pattern + 0.3 * philox_normal(shape, key=("latent", clip_id)))).half()
        where = write_shard(store, "encode_latents/pool/test/shards", bucket, tensors)
        rows += [
            {
                "sample_id": f"{clip_id}-0",
                "clip_id": clip_id,
                "split": split,
                "bucket": bucket,
                "sample_key": clip_id,
                **of_clip[clip_id],
            }
            | _columns(where[f"{clip_id}-0"])
            for clip_id, split, _ in members
        ]
    draft = Draft(store, Recipe("encode_latents", 1, {}, {}))
    table = table_of(rows, LATENT_INDEX)
    draft.add("index.parquet", to_parquet(table))
    trained_on = {row["dataset"] for row in rows if row["split"] == "train"}
    return draft.commit(
        content=dict.fromkeys(("train", "eval"), content_digest(table, ["sample_id", "digest"])),
        counts=Counts.all_kept(len(rows)),
        facts=EncodeLatentsFacts(0, dict.fromkeys(sorted(trained_on), 1)),
    )


def _captions(store: Store, clips: list[tuple[str, str, str]], prompts: Sequence[str]) -> Artifact:
    entries = [("null", "", 0)]
    entries += [(split, clip_id, n) for i, (clip_id, split, _) in enumerate(clips) for n in range(1 + i % 2)]
    entries += [("prompt", name, 0) for name in prompts] + [("negative", "", 0)] * bool(prompts)
    tensors = {
        f"{name}/{n}": philox_normal([3 + i % 6, CAPTION_CHANNELS], key=("caption", name, n)).to(torch.bfloat16)
        for i, (_, name, n) in enumerate(entries)
    }
    where = write_shard(store, "encode_captions/pool/test/shards", "part", tensors)
    rows = [
        {"role": role, "name": name, "position": n, "text_key": f"{name}/{n}", "text": f"text {name} {n}"}
        | {"template": "video", "truncated": False}
        | _columns(where[f"{name}/{n}"])
        for role, name, n in reversed(entries)
    ]
    draft = Draft(store, Recipe("encode_captions", 1, {}, {}))
    table = table_of(rows, CAPTION_INDEX)
    draft.add("index.parquet", to_parquet(table))
    content = dict.fromkeys(("train", "eval"), content_digest(table, ["name", "digest"]))
    return draft.commit(content=content, counts=Counts.all_kept(len(rows)))


def build_masks(encoded: Encoded) -> Artifact:
    """Write masks of all samples, as encode_masks does: that of the k-th is 1 in k of its columns and 0 elsewhere."""
    samples = read_table(encoded.store, encoded.latents, "index.parquet").to_pylist()
    tensors = {}
    for number, row in enumerate(sorted(samples, key=lambda row: row["sample_id"])):
        weights = torch.zeros(1, *row["shape"][1:], dtype=torch.float16)
        weights[..., : number % row["shape"][3]] = 1.0
        tensors[row["sample_id"]] = weights
    where = write_shard(encoded.store, "encode_masks/pool/test/shards", "part", tensors)
    rows = [
        {**row, "mask_key": row["sample_id"], "covered": 0.5, **_columns(where[row["sample_id"]])} for row in samples
    ]
    draft = Draft(encoded.store, Recipe("encode_masks", 1, {}, {}))
    draft.add("index.parquet", to_parquet(table_of(rows, MASK_INDEX)))
    return draft.commit(content={"train": "masks"}, counts=Counts.all_kept(len(rows)))


def _columns(location: Location) -> dict[str, Any]:
    return {**location.__dict__, "shape": list(location.shape), "provenance": "test"}


def train_config(
    encoded: Encoded,
    work_dir: Path,
    tiny_model: Path,
    *,
    datasets: Sequence[Mapping[str, Any]] = ({"id": "test", "source": "unused"},),
    **train: Any,
) -> Config:
    """A config of a short run; `train` overrides its settings, those of resources included."""
    settings: dict[str, Any] = {
        "max_steps": 8, "global_batch_size": 4, "learning_rate": 3e-3, "lr_schedule": {"warmup_steps": 2},
        "optimizer": {"epsilon": 1e-8}, "max_grad_norm": 1.0, "ema_decay": 0.9, "mixed_precision": "fp32",
        "caption_dropout": 0.2,
    }  # fmt: skip
    resources: dict[str, Any] = {
        "micro_batch_size": 2, "activation_memory": 1.0, "device": "cpu",
        "checkpoint_every": 4, "eval_every": 0, "log_every": 3,
    }  # fmt: skip
    for name, value in train.items():
        (resources if name in TrainResources.model_fields else settings)[name] = value
    return check(
        {
            "root": encoded.store.root,
            "work_dir": str(work_dir),
            "model": {"path": str(tiny_model)},
            "download": {"datasets": list(datasets)},
            "train": {**settings, "resources": resources},
            "bucket": {"buckets": list(BUCKETS)},
            "evaluate": {"num_sigmas": 4},
            "sample": {"prompts": {"a": "a", "b": "b"}},
        },
        where="test",
    )


def train_job(
    encoded: Encoded, config: Config, tiny_model: Path, *, trajectory: str = "t", **spec: Any
) -> Job[TrainSpec]:
    """Write a job as the train stage would, and read it back as its worker does."""
    fields: dict[str, Any] = {
        "fingerprint": f"f{config.train.max_steps}",
        "keep_steps": (),
        "draws_per_epoch": {},
        **spec,
    }
    model = ModelSource(str(tiny_model), None)
    made = TrainSpec(model, encoded.latents, encoded.captions, trajectory, **fields)
    return read_job(write_job(config, made), TrainSpec)


def evaluate_job(
    encoded: Encoded, config: Config, tiny_model: Path, checkpoint: CheckpointName, out: Path
) -> Job[EvaluateSpec]:
    """Write a job as the evaluate stage would, and read it back as its worker does."""
    model = ModelSource(str(tiny_model), None)
    made = EvaluateSpec(model, encoded.latents, encoded.captions, checkpoint, str(out))
    return read_job(write_job(config, made), EvaluateSpec)


def reports_to(job: Job, listener: Callable[[Progress], None]) -> Job:
    """Return the same job, which also reports to a function of the test."""

    class ListenedJob(Job):
        def report(self, progress: Progress) -> None:
            super().report(progress)
            listener(progress)

    return ListenedJob(**replace(job).__dict__)
