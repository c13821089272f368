"""A store of made-up samples to read or train from, without the packages that only tests need."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sana.arrow import table_of, to_parquet
from sana.artifact import Draft, Recipe
from sana.bucket import Bucket
from sana.counts import Counts
from sana.data.loading.loader import INDEX, Samples, load_samples
from sana.data.schemas import CAPTION_INDEX, LATENT_INDEX
from sana.data.shards.shard import pack
from sana.store import Store, open_store

CAPTION_CHANNELS = 2304


@dataclass(frozen=True)
class Case:
    """So many samples of one bucket, each with a caption of so many tokens."""

    bucket: str
    num_samples: int
    num_tokens: int = 128
    samples_per_shard: int = 32
    caption_channels: int = CAPTION_CHANNELS


def build(root: str, case: Case) -> tuple[Store, Samples]:
    """Write shards and both indexes; all latents are the same noise, and so are all captions."""
    store = open_store(root)
    latent = torch.randn(Bucket.parse(case.bucket).latent_shape).half()
    caption = torch.randn(case.num_tokens, case.caption_channels).bfloat16()
    names = [f"{number:08d}" for number in range(case.num_samples)]
    of_latents = _index(store, "encode_latents", names, latent, case.samples_per_shard)
    latents = [
        {"sample_id": name, "clip_id": name, "dataset": "d", "split": "train", "bucket": case.bucket}
        | {"draws_per_epoch": 1, "sample_key": name} | where
        for name, where in zip(names, of_latents, strict=True)
    ]  # fmt: skip
    of_captions = _index(store, "encode_captions", ["", *names], caption, case.samples_per_shard)
    captions = [
        {"role": "train" if name else "null", "name": name, "position": 0, "text_key": name, "text": name}
        | {"template": "none", "truncated": False} | where
        for name, where in zip(["", *names], of_captions, strict=True)
    ]  # fmt: skip
    artifacts = []
    for stage, rows, schema in (
        ("encode_latents", latents, LATENT_INDEX),
        ("encode_captions", captions, CAPTION_INDEX),
    ):
        draft = Draft(store, Recipe(stage, 0, {}, {}))
        draft.add(INDEX, to_parquet(table_of(rows, schema)))
        artifacts.append(draft.commit(content={}, counts=Counts.all_kept(len(rows))))
    return store, load_samples(store, artifacts[0], artifacts[1], "train")


def _index(store: Store, stage: str, names: Sequence[str], tensor: torch.Tensor, per_shard: int) -> list[dict]:
    rows = []
    for start in range(0, len(names), per_shard):
        shard = f"{stage}/{start:08d}-{uuid.uuid4().hex[:12]}.safetensors"
        data, where = pack(dict.fromkeys(names[start : start + per_shard], tensor), shard=shard)
        path = store.local_path(shard)
        if path is None:
            store.put_if_absent(shard, data)
        else:  # without the fsync of each: there may be ten thousand
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        rows += [{**location.__dict__, "shape": list(location.shape), "provenance": ""} for location in where.values()]
    return rows
