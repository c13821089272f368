"""A bench for what a training must be able to do: know four clips by heart, and sample them again."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import SanaVideoTransformer3DModel
from torch import Tensor, nn

from sana.arrow import table_of, to_parquet
from sana.artifact import Artifact, Draft, Recipe
from sana.bucket import Bucket
from sana.counts import Counts
from sana.data.schemas import CAPTION_INDEX, LATENT_INDEX, MASK_INDEX
from sana.data.shards.shard import Location, write_shard
from sana.data.tables import content_digest, read_table
from sana.facts import EncodeLatentsFacts
from sana.model.objective import flow_matching_loss, noise_latents, sigmas, timesteps_of, velocity_target
from sana.model.pipeline import denoiser, sample_latents
from sana.model.random import philox_normal, philox_uniform
from sana.model.tiny_model import CAPTION_CHANNELS
from sana.model.transformer import load_transformer, pad, predict
from sana.runtime.specs import ModelSource
from sana.store import Store, open_store
from sana.training.checkpoints.checkpoint_io import load_weights
from sana.training.evaluation import at_all_levels, eval_sigmas
from sana.training.objectives.step_input import noised, predict_step
from sana.training.trainables.registry import trained_transformer
from sana.workers import train as trainer
from tests.training_lab import Lab
from tests.training_store import Encoded

BUCKET = Bucket.parse("5x64x64")
BASE_STEPS = 300
CLIPS = tuple(f"clip{number}" for number in range(4))
HEADS, HEAD_DIM = 4, 24  # wider than the tiny model: a token's 64 numbers of noise must fit through


def build_wide_model(tiny_model: Path, out: Path) -> Path:
    """Write the tiny checkpoint with a transformer that is wide enough to know clips by heart: 330 thousand weights."""
    shutil.copytree(tiny_model, out)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = SanaVideoTransformer3DModel(
            num_attention_heads=HEADS, attention_head_dim=HEAD_DIM, num_layers=2, num_cross_attention_heads=HEADS,
            cross_attention_head_dim=HEAD_DIM, cross_attention_dim=HEADS * HEAD_DIM, caption_channels=CAPTION_CHANNELS,
            mlp_ratio=2.0,
        )  # fmt: skip
    shutil.rmtree(out / "transformer")
    transformer.save_pretrained(out / "transformer")
    return out


def know_other_clips(model: Path, out: Path) -> Path:
    """Write the model after it has learned four other clips by heart: a base that adapters can begin from."""
    shutil.copytree(model, out)
    transformer = load_transformer(str(model)).train()
    names = [f"other{number}" for number in range(4)]
    latents = torch.stack([clip_latents(name) for name in names])
    captions, mask = pad([clip_caption(name) for name in names])
    optimizer = torch.optim.AdamW(transformer.parameters(), weight_decay=0.0)
    for step in range(BASE_STEPS):
        optimizer.param_groups[0]["lr"] = 4e-3 * min(1.0, (step + 1) / 20) * (1 - step / BASE_STEPS)
        noise = philox_normal(latents.shape, key=("base noise", step))
        sigma = sigmas("logit_normal", philox_uniform([4], key=("base sigma", step)), shift=2.0)
        velocity = predict(transformer, noise_latents(latents, noise, sigma), timesteps_of(sigma), captions, mask)
        optimizer.zero_grad()
        flow_matching_loss(velocity, velocity_target(latents, noise)).mean().backward()
        torch.nn.utils.clip_grad_norm_(transformer.parameters(), 1.0)
        optimizer.step()
    transformer.save_pretrained(out / "transformer")
    return out


def clip_latents(name: str) -> Tensor:
    """Latents of unit variance, smooth in time and space, of one clip: float32 [16, 2, 8, 8]."""
    frames, height, width = BUCKET.latent_shape[1:]
    coarse = philox_normal([1, 16, frames, height // 2, width // 2], key=("clip", name))
    smooth = torch.nn.functional.interpolate(coarse, (frames, height, width), mode="trilinear")[0]
    return (smooth - smooth.mean()) / smooth.std()


def clip_caption(name: str) -> Tensor:
    """The embedding of a clip's caption: float32 [6, C]."""
    return philox_normal([6, CAPTION_CHANNELS], key=("caption", name))


def build_clips(root: Path) -> Encoded:
    """Write a store of the four clips to train on; the first is the eval split as well, which nothing here reads."""
    store = open_store(str(root))
    return Encoded(store, _latents(store), _captions(store))


def _latents(store: Store) -> Artifact:
    where = write_shard(
        store, "encode_latents/pool/test/shards", "part", {f"{name}-0": clip_latents(name) for name in CLIPS}
    )
    rows = [
        {"sample_id": f"{name}-0" + ("-eval" if split == "eval" else ""), "clip_id": name, "split": split}
        | {"bucket": str(BUCKET), "sample_key": name, "dataset": "test", "draws_per_epoch": 1}
        | _columns(where[f"{name}-0"])
        for split, name in [*(("train", name) for name in CLIPS), ("eval", CLIPS[0])]
    ]
    draft, table = Draft(store, Recipe("encode_latents", 1, {}, {})), table_of(rows, LATENT_INDEX)
    draft.add("index.parquet", to_parquet(table))
    content = dict.fromkeys(("train", "eval"), content_digest(table, ["sample_id", "digest"]))
    return draft.commit(content=content, counts=Counts.all_kept(len(rows)), facts=EncodeLatentsFacts(0, {"test": 4}))


def _captions(store: Store) -> Artifact:
    tensors = {name: clip_caption(name) for name in ("", *CLIPS)}
    where = write_shard(
        store, "encode_captions/pool/test/shards", "part", {f"text {name}": text for name, text in tensors.items()}
    )
    entries = [("null", ""), *(("train", name) for name in CLIPS), ("eval", CLIPS[0])]
    rows = [
        {"role": role, "name": name, "position": 0, "text_key": name, "text": name, "template": "none"}
        | {"truncated": False}
        | _columns(where[f"text {name}"])
        for role, name in entries
    ]
    draft, table = Draft(store, Recipe("encode_captions", 1, {}, {})), table_of(rows, CAPTION_INDEX)
    draft.add("index.parquet", to_parquet(table))
    content = dict.fromkeys(("train", "eval"), content_digest(table, ["name", "digest"]))
    return draft.commit(content=content, counts=Counts.all_kept(len(rows)))


def _columns(location: Location) -> dict[str, Any]:
    return {**location.__dict__, "shape": list(location.shape), "provenance": "test"}


def build_half_masks(encoded: Encoded) -> Artifact:
    """Write masks that are 1 in the left half of each clip and 0 in the right one, as encode_masks does."""
    samples = read_table(encoded.store, encoded.latents, "index.parquet").to_pylist()
    where = write_shard(
        encoded.store, "encode_masks/pool/test/shards", "half", {row["sample_id"]: left_half() for row in samples}
    )
    rows = [
        {**row, "mask_key": row["sample_id"], "covered": 0.5, **_columns(where[row["sample_id"]])} for row in samples
    ]
    draft = Draft(encoded.store, Recipe("encode_masks", 1, {}, {}))
    draft.add("index.parquet", to_parquet(table_of(rows, MASK_INDEX)))
    return draft.commit(content={"train": "masks"}, counts=Counts.all_kept(len(rows)))


def left_half() -> Tensor:
    """A mask of one clip: float16 [1, 2, 8, 8]."""
    weights = torch.zeros(1, *BUCKET.latent_shape[1:], dtype=torch.float16)
    weights[..., : weights.shape[-1] // 2] = 1.0
    return weights


@dataclass(frozen=True)
class Question:
    """How the clips are asked for: what is given clean, and where the answer is looked at; bool [1, 1, f, h, w]."""

    clean: Tensor
    looked_at: Tensor

    @classmethod
    def plain(cls) -> "Question":
        everywhere = torch.ones(1, 1, *BUCKET.latent_shape[1:], dtype=torch.bool)
        return cls(~everywhere, everywhere)

    @classmethod
    def from_first_frame(cls) -> "Question":
        clean = torch.zeros(1, 1, *BUCKET.latent_shape[1:], dtype=torch.bool)
        clean[:, :, 0] = True
        return cls(clean, ~clean)

    @classmethod
    def inside_left_half(cls) -> "Question":
        return cls(cls.plain().clean, left_half()[None].bool())

    @classmethod
    def outside_left_half(cls) -> "Question":
        return cls(cls.plain().clean, ~left_half()[None].bool())

    @torch.no_grad()
    def loss(self, transformer: nn.Module) -> float:
        """Return the mean loss of the four clips at eight fixed levels and noise, where it is looked at."""
        levels = eval_sigmas(8)
        losses = []
        for name in CLIPS:
            batch = at_all_levels(clip_latents(name), clip_caption(name), name, levels=levels, padding="batch")
            step = noised(batch)
            if self.clean.any():
                step = replace(step, clean=self.clean.expand(len(levels), *self.clean.shape[1:]))
            velocity = predict_step(transformer.eval(), batch, step)
            error = (velocity - velocity_target(batch.latents, batch.noise)).square().mean(1, keepdim=True)
            losses.append(error[self.looked_at.expand_as(error)].mean())
        return float(torch.stack(losses).mean())

    def correlation(self, sampled: Tensor, own: Tensor) -> float:
        """Return the correlation of two clips [16, f, h, w] where it is looked at."""
        at = self.looked_at[0].expand_as(own)
        return float(torch.corrcoef(torch.stack([sampled[at], own[at]]))[0, 1])


@dataclass(frozen=True)
class Learned:
    """What a training made of the model: before and after, and what it samples of each clip, [16, f, h, w]."""

    before: nn.Module
    after: nn.Module
    sampled: tuple[Tensor, ...]

    def drop(self, question: Question) -> float:
        """Return the loss after training as a part of that before."""
        return question.loss(self.after) / question.loss(self.before)

    def correlations(self, question: Question) -> list[float]:
        """Return how much each sampled clip is like its own."""
        pairs = zip(CLIPS, self.sampled, strict=True)
        return [question.correlation(sampled, clip_latents(name)) for name, sampled in pairs]


def learn(lab: Lab, name: str, *, is_given_first_frame: bool = False, **settings: Any) -> Learned:
    """Train on the four clips, and sample each from its caption (and its first frame) with the EMA weights."""
    job = lab.job(name, **settings)
    trainer.train(job)
    weights = load_weights(lab.store, lab.key(name), job.config.train.max_steps, which="ema")
    model = ModelSource(str(lab.model), None)
    transformer = trained_transformer(model, job.config.train, weights, dtype=torch.float32)
    pipe = denoiser(str(lab.model), transformer, device=torch.device("cpu"))
    sampled = [
        sample_latents(
            pipe,
            prompt_embeds=clip_caption(clip),
            negative_embeds=clip_caption(""),
            shape=BUCKET,
            steps=20,
            guidance=1.0,
            seed=number,
            first_latents=clip_latents(clip)[None, :, :1] if is_given_first_frame else None,
        )[0]
        for number, clip in enumerate(CLIPS)
    ]
    return Learned(load_transformer(str(lab.model)), transformer, tuple(sampled))
