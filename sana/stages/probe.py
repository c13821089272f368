"""Probe: open each video once and write down what it is. A content that was opened before is not opened again."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from sana.artifact import Artifact, Draft, Recipe
from sana.context import Context
from sana.data.manifest import content_digest, count_rejects, read_table, refused_by_dataset, table_of, to_parquet
from sana.data.pool import Pool, slices
from sana.data.schemas import PROBED, PROBES, REJECTS, VIDEO_FACTS
from sana.data.source import open_sources
from sana.progress import Progress

NAME = "probe"
VERSION = 1
INPUTS = ("download",)


def recipe(context: Context, inputs: Mapping[str, Artifact]) -> Recipe:
    """Probe reads the videos; no caption, no bucket."""
    return Recipe(NAME, VERSION, context.config.probe.hashed(), {"videos": inputs["download"].content["videos"]})


def pool_of(context: Context) -> Pool:
    return Pool(context.store, NAME, context.salted(f"v{VERSION}"), schema=PROBES, id_column="digest")


def remaining(context: Context, inputs: Mapping[str, Artifact]) -> tuple[int, int, str]:
    """Return (done, total, unit) of the work at hand."""
    wanted = set(read_table(context.store, inputs["download"], "clips.parquet").column("digest").to_pylist())
    done = wanted & set(pool_of(context).rows().column("digest").to_pylist())
    return len(done), len(wanted), "videos"


def run(context: Context, inputs: Mapping[str, Artifact]) -> Artifact:
    """Write `clips.parquet` (with what was found) and `rejects.parquet`."""
    draft = Draft(context.store, recipe(context, inputs), forced=bool(context.salt))
    clips = read_table(context.store, inputs["download"], "clips.parquet")
    pool = pool_of(context)
    opened = _open_missing(context, pool, clips)
    facts = {row["digest"]: row for row in pool.rows().to_pylist()}
    rows: list[dict[str, Any]] = []
    rejects: list[dict[str, Any]] = []
    for clip in clips.to_pylist():
        row = {**facts[clip["digest"]], **clip, "stage": NAME}
        (rejects if row["reason"] else rows).append(row)
    probed, refused = table_of(rows, PROBED), table_of(rejects, REJECTS)
    draft.add("clips.parquet", to_parquet(probed))
    draft.add("rejects.parquet", to_parquet(refused))
    pool.compact()
    return draft.commit(
        content={"clips": content_digest(probed, PROBED.names)},
        counts={**count_rejects(clips.num_rows, probed.num_rows, refused), "opened": opened},
        facts={"datasets": refused_by_dataset(clips.column("dataset").to_pylist(), refused)},
    )


def _open_missing(context: Context, pool: Pool, clips: pa.Table) -> int:
    """Open the videos that the pool does not know, part by part; returns how many."""
    known = set(pool.rows().column("digest").to_pylist())
    missing = {clip["digest"]: clip for clip in clips.to_pylist() if clip["digest"] not in known}
    resources = context.config.probe.resources
    sources = open_sources(context.config, work_dir=context.work_dir)
    done = 0

    def probe(clip: Mapping[str, Any]) -> dict[str, Any]:
        with sources[clip["dataset"]].open_video(clip["path"], digest=clip["digest"]) as path:
            return {"digest": clip["digest"], **_probe_file(path)}

    with ThreadPoolExecutor(resources.num_workers) as workers:
        for part in slices([missing[digest] for digest in sorted(missing)], resources.clips_per_part):
            rows = []
            for row in workers.map(probe, part):
                rows.append(row)
                done += 1
                context.report(Progress(done, len(missing), "videos"))
            pool.commit_part(table_of(rows, PROBES))
    return done


def _probe_file(path: Path) -> dict[str, Any]:
    """Return a pool row: what the video is, or why it was refused."""
    # here and not above: a cached run must not load a video library
    from sana.data.probe import probe_video
    from sana.data.video import ClipRefused

    try:
        return {"reason": "", "detail": "", **asdict(probe_video(path))}
    except ClipRefused as refusal:
        nothing = {field.name: "" if pa.types.is_string(field.type) else 0 for field in VIDEO_FACTS}
        return {"reason": refusal.reason, "detail": refusal.detail, **nothing}
