"""Download: list the data sets, pair videos with captions, and digest what is there. Sources are only read."""

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any

from sana.artifact import Artifact, Draft, Recipe
from sana.config.data import DatasetConfig
from sana.context import Context
from sana.data.manifest import clip_id_of, content_digest, count_rejects, refused_by_dataset, table_of, to_parquet
from sana.data.schemas import CAPTIONS, CLIPS, REJECTS, Reason
from sana.data.source import Source, SourceFile, is_video, open_sources
from sana.progress import Progress

NAME = "download"
VERSION = 1
INPUTS: tuple[str, ...] = ()


def recipe(context: Context, inputs: Mapping[str, Artifact]) -> Recipe:
    """The listing is the input: paths, sizes and what the source itself says of each file's content."""
    return _recipe(context, open_sources(context.config, work_dir=context.work_dir, read_only=context.read_only))


def _recipe(context: Context, sources: Mapping[str, Source]) -> Recipe:
    inputs = {f"listing of {name}": source.listing_digest() for name, source in sources.items()}
    return Recipe(NAME, VERSION, context.config.download.hashed(), inputs)


def remaining(context: Context, inputs: Mapping[str, Artifact]) -> tuple[int, int, str]:
    """Return (done, total, unit) of the work at hand."""
    sources = open_sources(context.config, work_dir=context.work_dir, read_only=context.read_only)
    return 0, sum(is_video(file.path) for source in sources.values() for file in source.listing()), "videos"


def run(context: Context, inputs: Mapping[str, Artifact]) -> Artifact:
    """Write `clips.parquet`, `captions.parquet` and `rejects.parquet`.

    Raises:
        ConfigError: a source does not exist, or holds no video.
    """
    sources = open_sources(context.config, work_dir=context.work_dir, read_only=context.read_only)
    draft = Draft(context.store, _recipe(context, sources), forced=bool(context.salt))
    rows: list[dict[str, Any]] = []
    rejects: list[dict[str, Any]] = []
    total = sum(is_video(file.path) for source in sources.values() for file in source.listing())
    for dataset in context.config.download.enabled:
        source = sources[dataset.id]
        texts = {file.path for file in source.listing() if not is_video(file.path)}
        videos = [file for file in source.listing() if is_video(file.path)]
        with ThreadPoolExecutor(context.config.download.resources.num_workers) as workers:
            jobs = [workers.submit(_read_clip, dataset, source, file, texts) for file in videos]
            for job in jobs:
                row = job.result()
                (rejects if "reason" in row else rows).append(row)
                context.report(Progress(len(rows) + len(rejects), total, "videos", dataset.id))
    clips = table_of(sorted(rows, key=lambda row: row["clip_id"]), CLIPS)
    captions = table_of(sorted(rows, key=lambda row: row["clip_id"]), CAPTIONS)
    refused = table_of(sorted(rejects, key=lambda row: row["clip_id"]), REJECTS)
    for name, table in (("clips", clips), ("captions", captions), ("rejects", refused)):
        draft.add(f"{name}.parquet", to_parquet(table))
    return draft.commit(
        content={
            "videos": content_digest(clips, CLIPS.names),
            "captions": content_digest(captions, CAPTIONS.names),
        },
        counts=count_rejects(total, clips.num_rows, refused),
        facts={
            "datasets": refused_by_dataset((row["dataset"] for row in rows + rejects), refused),
            "revisions": {name: source.revision for name, source in sources.items()},
        },
    )


def _read_clip(dataset: DatasetConfig, source: Source, file: SourceFile, texts: set[str]) -> dict[str, Any]:
    """Return the row of one clip, or, with a `reason`, of its refusal."""
    row: dict[str, Any] = {
        "clip_id": clip_id_of(dataset.id, file.path),
        "dataset": dataset.id,
        "path": file.path,
        "num_bytes": file.num_bytes,
        "stage": NAME,
    }
    text_path = str(PurePosixPath(file.path).with_suffix(".txt"))
    if text_path not in texts:
        return {**row, "reason": Reason.NO_CAPTION, "detail": f"there is no {text_path}"}
    try:
        lines = source.read_text(text_path).splitlines()
    except UnicodeDecodeError as error:
        return {**row, "reason": Reason.NO_CAPTION, "detail": f"{text_path} is not UTF-8: {error.reason}"}
    except OSError as error:
        return {**row, "reason": Reason.NO_CAPTION, "detail": f"{text_path}: {error.strerror or error}"}
    captions = [line.strip() for line in lines if line.strip()]
    if not captions:
        return {**row, "reason": Reason.NO_CAPTION, "detail": f"{text_path} is empty"}
    try:
        digest = source.digest(file)
    except OSError as error:
        return {**row, "reason": Reason.UNREADABLE, "detail": f"{file.path}: {error.strerror or error}"}
    source_id = row["clip_id"]
    if dataset.source_pattern:
        match = re.search(dataset.source_pattern, PurePosixPath(file.path).stem)
        source_id = match.group(1) if match and match.group(1) else source_id
    return {**row, "source_id": source_id, "captions": captions, "digest": digest}
