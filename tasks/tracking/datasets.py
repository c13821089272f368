"""Data sets as MLflow shows them: names, digests of their content, columns, and how much of them there is."""

import json
from collections.abc import Mapping

import pyarrow as pa
from mlflow.entities import Dataset, DatasetInput, InputTag

from sana.artifact import Artifact, digest_of
from sana.config.pipeline import Config
from sana.data import schemas
from sana.facts import EncodeLatentsFacts
from sana.store import Store
from sana.wording import without_password

_SCHEMAS = {
    "download": schemas.CLIPS,
    "probe": schemas.PROBED,
    "bucket": schemas.WINDOWS,
    "encode_captions": schemas.CAPTION_INDEX,
    "encode_latents": schemas.LATENT_INDEX,
}
_KINDS = {"string": "string", "bool": "boolean", "int32": "integer", "int64": "long", "float": "float"}
_MAX_SOURCE_CHARS = 2000


def of_stage(artifact: Artifact, store: Store, context: str) -> DatasetInput:
    """Return a stage's artifact as what another stage read; the digest is that of its content."""
    counts = artifact.counts
    profile = {"clips_in": counts.num_in, "clips_out": counts.num_out, "clips_rejected": counts.num_rejected}
    if counts.num_samples is not None:
        profile["samples"] = counts.num_samples
    source = {"uri": store.uri(artifact.key)}
    return _input(artifact.stage, artifact.fingerprint, source, _SCHEMAS.get(artifact.stage), profile, context)


def of_config(config: Config, latents: Artifact, store: Store) -> list[DatasetInput]:
    """Return the config's data sets as they are trained on: their digest changes with any encoded byte of all."""
    trained = EncodeLatentsFacts.of(latents).train_samples
    content = dict(latents.content)
    return [
        _input(
            dataset.id,
            digest_of([content, dataset.id])[:16],
            {"uri": store.uri(latents.key), "source": without_password(str(dataset.source))[:_MAX_SOURCE_CHARS]},
            schemas.LATENT_INDEX,
            {"train_samples": int(trained.get(dataset.id, 0)), "role": dataset.role},
            "eval" if dataset.role == "eval" else "train",
        )
        for dataset in config.download.enabled
    ]


def _input(
    name: str,
    digest: str,
    source: dict[str, str],
    schema: pa.Schema | None,
    profile: Mapping[str, object],
    context: str,
) -> DatasetInput:
    columns = None if schema is None else json.dumps({"mlflow_colspec": [_column(field) for field in schema]})
    dataset = Dataset(name, digest, "sana", json.dumps(source), schema=columns, profile=json.dumps(profile))
    return DatasetInput(dataset, tags=[InputTag("mlflow.data.context", context)])


def _column(field: pa.Field) -> dict[str, object]:
    return {"name": field.name, "type": _KINDS.get(str(field.type), str(field.type)), "required": not field.nullable}
