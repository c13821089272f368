"""What a validation makes: the list of its videos, and what they are made of beside the weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from sana.artifact import Artifact, digest_of
from sana.bucket import Bucket
from sana.config.pipeline import Config
from sana.data.picture_file import picture_digest
from sana.data.shards.shard import Location, read_tensor
from sana.data.tables import read_table
from sana.errors import ConfigError
from sana.store import Store
from sana.wording import as_file_name

Weights = Literal["ema", "live"]
NEGATIVE, PROMPT = "negative", "prompt"  # roles in encode_captions' index


@dataclass(frozen=True)
class Library:
    """The prompts that videos are made of: [L, C] embeddings of real tokens, texts and digests by nickname."""

    prompts: Mapping[str, Tensor]
    texts: Mapping[str, str]
    negative: Tensor
    digests: Mapping[str, str]  # that of the negative prompt is under "", of a prompt's picture under "image of NAME"

    @classmethod
    def read(cls, store: Store, captions: Artifact, config: Config) -> "Library":
        """Read the prompts that validation uses from what encode_captions made.

        Raises:
            ConfigError: one is not there, or the picture that its video begins with.
        """
        table = read_table(store, captions, "index.parquet")
        rows = table.filter(pc.is_in(table["role"], pa.array([PROMPT, NEGATIVE]))).to_pylist()
        of_role = {role: {row["name"]: row for row in rows if row["role"] == role} for role in (PROMPT, NEGATIVE)}
        names: Sequence[str] = config.train.validation.prompts or sorted(config.sample.prompts)
        found, negative = of_role[PROMPT], next(iter(of_role[NEGATIVE].values()), None)
        missing = [name for name in names if name not in found]
        if missing or negative is None:
            what = f"prompt {missing[0]}" if missing else "the negative prompt"
            raise ConfigError(
                f"{captions.key} does not have {what} of the config: it is of another config; run encode_captions "
                "again: sana run CONFIG --until encode_captions"
            )
        used = {name: found[name] for name in names}
        return cls(
            prompts={name: read_tensor(store, Location.of(row)) for name, row in used.items()},
            texts={name: row["text"] for name, row in used.items()},
            negative=read_tensor(store, Location.of(negative)),
            digests={
                **{name: row["digest"] for name, row in used.items()},
                "": negative["digest"],
                **{
                    f"image of {name}": picture_digest(path, where=f"sample.images.{name}")
                    for name, path in sorted(config.sample.images.items())
                    if name in used
                },
            },
        )


@dataclass(frozen=True)
class Shot:
    """One video that is to be made."""

    prompt: str  # nickname
    bucket: Bucket
    seed: int
    weights: Weights
    begins_with_picture: bool = False

    @property
    def name(self) -> str:
        """What it is called: the quickstart's `<token>` is `_token_` in a file's name."""
        nickname = as_file_name(self.prompt)
        return f"{nickname}-{self.bucket}-seed{self.seed}-{self.weights}"


@dataclass(frozen=True)
class ShotList:
    """The videos of one validation, in a fixed order, and how they are sampled."""

    shots: tuple[Shot, ...]
    num_inference_steps: int
    guidance_scale: float
    digest: str  # of all that the pixels depend on beside the model and its weights

    def of(self, weights: Weights) -> tuple[Shot, ...]:
        """Return the videos of these weights."""
        return tuple(shot for shot in self.shots if shot.weights == weights)


def shot_list(config: Config, library: Library, *, step: int) -> ShotList:
    """List the videos of a validation after so many steps: before the first, EMA and live weights are the same."""
    wanted, sample = config.train.validation, config.sample
    each: tuple[Weights, ...] = ("live", "ema") if wanted.weights == "both" else (wanted.weights,)
    each = each[:1] if step == 0 else each
    buckets = [Bucket.parse(name) for name in wanted.buckets] or [sample.shape]
    seeds = wanted.seeds or (sample.seed,)
    steps = wanted.num_inference_steps or sample.num_inference_steps
    guidance = wanted.guidance_scale or sample.guidance_scale
    shots = [
        Shot(name, bucket, seed, weights, name in sample.images and bucket.num_frames > 1)
        for weights in each
        for bucket in buckets
        for name in library.prompts
        for seed in seeds
    ]
    made_of = {
        "prompts": dict(library.digests),
        "buckets": [str(bucket) for bucket in buckets],
        "seeds": list(seeds),
        "steps": steps,
        "guidance": guidance,
        "weights": wanted.weights,
        "vae": [sample.vae_precision, wanted.vae_tiling],
        "math": config.train.mixed_precision,
    }
    return ShotList(tuple(shots), steps, guidance, digest_of(made_of)[:12])
