"""Features beside the latents of a synthetic store: random numbers, through the real writers."""

import torch

from sana.arrow import table_of, to_parquet
from sana.artifact import Artifact, Draft, Recipe
from sana.bucket import Bucket
from sana.costs.features import FeatureSizes, feature_shape
from sana.counts import Counts
from sana.data.schemas import FEATURE_INDEX
from sana.data.shards.shard import write_shard
from sana.data.tables import content_digest, read_table
from sana.facts import EncodeFeaturesFacts
from sana.model.random import philox_normal
from tests.training_store import Encoded

FEATURE_SIZE = 12


def build_features(encoded: Encoded, *, tokens_per_cell: int = 2) -> Artifact:
    """Write the features of the train samples, fp16 [f, rows, columns, FEATURE_SIZE], as encode_features does."""
    store = encoded.store
    rows = [row for row in read_table(store, encoded.latents, "index.parquet").to_pylist() if row["split"] == "train"]
    sizes = FeatureSizes(FEATURE_SIZE, patch_size=14)
    tensors = {
        row["sample_id"]: philox_normal(
            feature_shape(Bucket.parse(row["bucket"]), tokens_per_cell, sizes), key=("features", row["sample_id"])
        ).to(torch.float16)
        for row in rows
    }
    where = write_shard(store, f"encode_features/pool/test{tokens_per_cell}/shards", "part", tensors)
    table = table_of(
        [
            {**row, **where[row["sample_id"]].__dict__, "shape": list(where[row["sample_id"]].shape)}
            for row in reversed(rows)
        ],
        FEATURE_INDEX,
    )
    draft = Draft(store, Recipe("encode_features", 1, {"tokens_per_cell": tokens_per_cell}, {}))
    draft.add("index.parquet", to_parquet(table))
    return draft.commit(
        content={"train": content_digest(table, ["sample_id", "digest"])},
        counts=Counts.all_kept(len(rows)),
        facts=EncodeFeaturesFacts(0, FEATURE_SIZE),
    )
