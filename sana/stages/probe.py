"""Probe: open each video once and write down what it is. A content that was opened before is not opened again."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sana.arrow import anti_join, run_starts, to_parquet, value_counts
from sana.artifact import Artifact, Draft, Recipe
from sana.context import Context
from sana.data.schemas import PROBED, PROBES, REJECTS, Reason
from sana.data.tables import content_digest, count_rejects, probed_files, read_table
from sana.progress import Continued
from sana.runtime.pool import Pool
from sana.runtime.specs import CrashHistory, PoolName, ProbeSpec
from sana.runtime.worker import restart_on_crash, run_worker
from sana.stages.bodies.probe_cache import ProbeCache

NAME = "probe"
VERSION = 5
READS = ("clips",)
GIVES = ("probed_clips",)


def recipe(context: Context, inputs: Mapping[str, Artifact]) -> Recipe:
    """Probe reads the videos; no caption, no bucket."""
    return Recipe(NAME, VERSION, context.config.probe.hashed(), {"videos": inputs["clips"].content["videos"]})


def pool_of(context: Context) -> Pool:
    return Pool(context.store, NAME, context.salted(f"v{VERSION}"), schema=PROBES, id_column="digest")


def remaining(context: Context, inputs: Mapping[str, Artifact]) -> tuple[int, int, str]:
    """Return (done, total, unit) of the work at hand."""
    files = probed_files(read_table(context.store, inputs["clips"], "clips.parquet"))
    total = pc.count_distinct(files.column("digest")).as_py()
    return total - anti_join(files, pool_of(context).rows(), "digest").num_rows, total, "videos"


def run(context: Context, inputs: Mapping[str, Artifact], recipe: Recipe) -> Artifact:
    """Write `clips.parquet` (with what was found) and `rejects.parquet`."""
    draft = Draft(context.store, recipe, forced=bool(context.salt))
    clips = read_table(context.store, inputs["clips"], "clips.parquet")
    files, pool = probed_files(clips), pool_of(context)
    if not context.salt:
        ProbeCache(context.work_dir, pool.key).give(pool, files)
    num_missing = anti_join(files, pool.rows(), "digest").num_rows
    if num_missing:
        report = Continued(context.report, pc.count_distinct(files.column("digest")).as_py())

        def opened(crashes: CrashHistory) -> None:
            run_worker(context, ProbeSpec(PoolName(NAME, pool.key), inputs["clips"], crashes), report=report)

        restart_on_crash(context, NAME, opened)
    judged = _with_facts(clips, files, pool.rows())
    if context.config.probe.duplicates == "reject":
        judged = _without_duplicates(judged)
    good = pc.equal(judged.column("reason"), "")
    probed = judged.filter(good).select(PROBED.names).cast(PROBED)
    rejected = judged.filter(pc.invert(good))
    rejected = (
        rejected.append_column("stage", pa.repeat(pa.scalar(NAME), rejected.num_rows))
        .select(REJECTS.names)
        .cast(REJECTS)
    )
    draft.add("clips.parquet", to_parquet(probed))
    draft.add("rejects.parquet", to_parquet(rejected))
    pool.compact()
    return draft.commit(
        content={"clips": content_digest(probed, PROBED.names)},
        counts=count_rejects(value_counts(clips.column("dataset")), probed.num_rows, rejected).with_extra(
            opened=num_missing
        ),
    )


def _with_facts(clips: pa.Table, files: pa.Table, probes: pa.Table) -> pa.Table:
    """Give each clip the pool's row of its content; `files` are their `probed_files`."""
    found = probes.take(pc.index_in(files.column("digest"), value_set=probes.column("digest")))
    for name in found.column_names:
        if name != "digest":
            clips = clips.append_column(probes.schema.field(name), found.column(name))
    return clips


def _without_duplicates(judged: pa.Table) -> pa.Table:
    """Reject all but the first by clip_id of a data set's clips that share a content and are not rejected already."""
    order = pc.sort_indices(judged, sort_keys=[(name, "ascending") for name in ("dataset", "digest", "clip_id")])
    starts = np.union1d(*(run_starts(judged.column(name).take(order)) for name in ("dataset", "digest")))
    first = np.empty(judged.num_rows, np.int64)  # for each clip, the row of the first clip with its content
    first[order.to_numpy()] = np.repeat(order.to_numpy()[starts], np.diff(np.r_[starts, judged.num_rows]))
    duplicate = pc.and_(pa.array(first != np.arange(len(first))), pc.equal(judged.column("reason"), ""))
    kept = judged.select(["dataset", "path"]).take(pa.array(first))
    detail = pc.binary_join_element_wise("the same content as ", kept.column("dataset"), ": ", kept.column("path"), "")
    for name, value in (("reason", Reason.DUPLICATE.value), ("detail", detail)):
        at = judged.schema.get_field_index(name)
        column = pc.if_else(duplicate, value, judged.column(name))
        judged = judged.set_column(at, judged.schema.field(at), column)
    return judged
