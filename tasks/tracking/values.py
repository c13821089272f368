"""What the tracker records, as plain values: params, metrics, files, notes. No tracker here."""

import json
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from pydantic import JsonValue

from sana.artifact import Artifact, Recipe, digest_of
from sana.config.pipeline import Config
from sana.config.section import Neutral, Section, by_todays_names
from sana.facts import TrainFacts
from sana.metrics import parse_rows
from sana.store import Store
from sana.wording import without_password

SMALL_BYTES = 20 * 10**6
SMALL_KINDS = (".parquet", ".json", ".png", ".mp4", ".html", ".jsonl", ".md", ".csv", ".log", ".txt")
MAX_PARAM_CHARS = 6000
MAX_NAME_CHARS = 200  # of a run


def tracking_uri(config: Config) -> str:
    """Return the server of the config, that of MLFLOW_TRACKING_URI, or a database in work_dir: never the cwd's."""
    default = f"sqlite:///{Path(config.work_dir).absolute() / 'mlflow.db'}"
    return config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or default


def sections(config: Config) -> dict[str, Section]:
    """Return the sections of a config that say what is made; where it is made and shown is left out."""
    told = ("tracking", "notifications")
    parts = {name: getattr(config, name) for name in type(config).model_fields if name not in told}
    return {name: part for name, part in parts.items() if isinstance(part, Section)}


def params(config: Config, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return hashed settings by section as the config names them, which hashes may not."""
    kinds = {name: type(part) for name, part in sections(config).items()}
    return {name: by_todays_names(kinds.get(name, Section), hashed) for name, hashed in settings.items()}


def chosen(config: Config) -> dict[str, str]:
    """Return the settings that the config or its overrides name, as dotted names, in the config's order.

    Defaults are left out, and so is what only says where or how fast a stage works.
    """
    told = {name: part.model_dump(mode="json", exclude_unset=True) for name, part in sections(config).items()}
    return flat({name: {k: v for k, v in part.items() if k != "resources"} for name, part in told.items()})


def pipeline_key(config: Config) -> str:
    """Name a pipeline by all that is hashed in its config and where its data comes from: equal keys, one run."""
    sources = [[dataset.source, dataset.revision] for dataset in config.download.enabled]
    if config.train.crepa is not None:
        sources.append([config.encode_features.encoder, config.encode_features.revision])
    fields = type(config).model_fields
    hashed = {n: part.hashed() for n, part in sections(config).items() if Neutral(part) not in fields[n].metadata}
    return digest_of([{name: settings for name, settings in hashed.items() if settings}, sources])[:16]


def resolved_yaml(config: Config) -> str:
    """Return the whole config as it was run, without the password of a tracking server."""
    values = config.model_dump(mode="json")
    if config.tracking.uri:
        values["tracking"]["uri"] = without_password(config.tracking.uri)
    return yaml.safe_dump(values, sort_keys=False)


def flat(value: Any, prefix: str = "") -> dict[str, str]:
    """Flatten nested values into dotted names that MLflow accepts."""
    if isinstance(value, Mapping):
        return {k: v for name, child in value.items() for k, v in flat(child, f"{prefix}{name}.").items()}
    if isinstance(value, list | tuple) and any(isinstance(child, Mapping) for child in value):
        return flat({str(i): child for i, child in enumerate(value)}, prefix)
    text = value if isinstance(value, str) else json.dumps(value)
    return {_safe(prefix[:-1]): text[:MAX_PARAM_CHARS]}


def metrics(artifact: Artifact) -> dict[str, float]:
    """Counts, seconds and numeric facts of an artifact under names that read alone."""
    counts = artifact.counts
    numbers = {"clips_in": counts.num_in, "clips_out": counts.num_out, "clips_rejected": counts.num_rejected}
    numbers |= {f"clips_rejected.{reason}": num for reason, num in counts.reasons.items()}
    numbers |= {} if counts.num_samples is None else {"samples": counts.num_samples}
    numbers |= counts.extra
    facts = _numbers({name: value for name, value in artifact.facts.items() if name != "format"})
    return facts | {name: float(num) for name, num in numbers.items()} | {"seconds": artifact.seconds}


def _numbers(value: JsonValue | Mapping[str, JsonValue], prefix: str = "") -> dict[str, float]:
    if isinstance(value, Mapping):
        return {k: v for name, child in value.items() for k, v in _numbers(child, f"{prefix}{name}.").items()}
    if isinstance(value, bool) or not isinstance(value, int | float):
        return {}
    return {_safe(prefix[:-1]): float(value)}


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_\-. :/]", "_", name)


def small_files(artifact: Artifact) -> dict[str, str]:
    """Return {name: key} of the files that are shown by value; an exported model is of use only whole."""
    return {
        name: info.key
        for name, info in artifact.files.items()
        if name.endswith(SMALL_KINDS) and info.num_bytes < SMALL_BYTES and not name.startswith("model/")
    }


def fetch_small_files(artifact: Artifact, store: Store, folder: Path) -> None:
    """Bring the files that are shown by value into a local folder, under their names."""
    for name, key in small_files(artifact).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        store.fetch(key, path)


def linked_files(artifact: Artifact, store: Store) -> dict[str, dict[str, object]]:
    """Describe the files that stay where they are: shards, checkpoints and whatever else is large."""
    small = small_files(artifact)
    return {
        name: {"uri": store.uri(info.key), "num_bytes": info.num_bytes, "digest": info.digest}
        for name, info in artifact.files.items()
        if name not in small
    }


def lineage(artifact: Artifact, store: Store) -> dict[str, object]:
    """Say which artifact of a stage a pipeline's run made or reused."""
    return {
        "fingerprint": artifact.fingerprint,
        "uri": store.uri(artifact.key),
        "content": dict(artifact.content),
    }


def attempt_tags(config: Config, recipe: Recipe, attempt: int) -> dict[str, str]:
    """Tags of an attempt at a stage: the settings under `resources` are no params, as another attempt may have others.

    They are not hashed, and yet some change the last bits.
    """
    section = sections(config).get(recipe.stage)
    resources = {} if section is None else section.model_dump(mode="json").get("resources", {})
    found = {f"sana.resources.{name}": value for name, value in flat(resources).items() if value not in ("", "null")}
    return {**found, "sana.attempt": str(attempt), "sana.version": str(recipe.version)}


def artifact_tags(artifact: Artifact, store: Store) -> dict[str, str]:
    """Tags of a committed artifact's run: where it is, its note, and of a training run its trajectory."""
    tags = {"sana.uri": store.uri(artifact.key), "mlflow.note.content": note(artifact, store)}
    if trained := TrainFacts.find(artifact):
        tags["sana.trajectory"] = trained.trajectory
    links = artifact.facts.get("links")  # pages that any stage's facts may have
    if isinstance(links, Mapping):
        tags |= {f"sana.link.{name}": str(link) for name, link in links.items()}
    return tags


def note(artifact: Artifact, store: Store) -> str:
    """Markdown at the head of a run's page."""
    rows = "".join(f"| {name} | {value:g} |\n" for name, value in sorted(metrics(artifact).items()))
    return (
        f"**{artifact.stage}** `{artifact.fingerprint}`, committed\n\n{store.uri(artifact.key)}\n\n"
        f"| | |\n|---|---|\n{rows}"
    )


def metric_rows(artifact: Artifact, store: Store) -> list[dict[str, float]]:
    """Read every row that a training run measured: its artifact names the files of JSON lines that hold them."""
    trained = TrainFacts.find(artifact)
    return parse_rows(b"".join(store.read(key) for key in trained.metrics)) if trained else []


def status_of(error: BaseException | None) -> str:
    """MLflow's word for how a block ended: a cancel or Ctrl-C is no Exception."""
    if error is None:
        return "FINISHED"
    return "FAILED" if isinstance(error, Exception) else "KILLED"


def run_name(config: Config, template: str, *, title: str, key: str, started_s: float) -> str:
    """Fill in a template of the config. `title` is the config's name, `started_s` Unix time in seconds."""
    started = datetime.fromtimestamp(started_s, UTC)
    ids = [dataset.id for dataset in config.download.enabled]
    filled = template.format(
        config=title or "pipeline",
        method=config.train.method.name,
        dataset="+".join(ids[:3]) + ("" if len(ids) <= 3 else f"+{len(ids) - 3} more"),
        date=f"{started:%Y-%m-%d}",
        time=f"{started:%H:%M}",
        key=key[:8],
    )
    return "".join(char if char.isprintable() else " " for char in filled)[:MAX_NAME_CHARS].strip() or key[:8]


def stage_name(stage: str, fingerprint: str, *, title: str) -> str:
    """Name the run of a stage's artifact, which several configs may share: after the first that made it."""
    return f"{stage}-{fingerprint[:8]} {title}".strip()[:MAX_NAME_CHARS]
