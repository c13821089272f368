"""A million clips without a video: how long, and with how much memory, do bucket, plan and the epoch plan take?

    python -m benchmarks.dry_run [num_clips]

Each phase is a process of its own, so that its peak memory is its own. The manifest is the table that probe would
write of that many clips, of 40 sizes and 20 to 600 frames; the store is a local folder.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sana.arrow import to_parquet
from sana.artifact import Artifact, Draft, Recipe, find
from sana.config.load import load_config
from sana.context import Context
from sana.counts import Counts
from sana.data.schemas import LATENTS, PROBED, SAMPLE_KEY_COLUMNS
from sana.data.tables import content_digest, read_table, sample_key
from sana.stages import bucket, encode_latents
from sana.store import open_store

CONFIG = "configs/sana_video_480p.yaml"
GROWING = 100_000  # clips of the manifest that one more is added to


def context(folder: Path) -> Context:
    """The 480p config with places in `folder`."""
    values = {"root": folder / "root", "work_dir": folder / "work", "model.path": folder / "model"}
    config = load_config(CONFIG, [f"{key}={value}" for key, value in values.items()])
    return Context(config, open_store(config.root), Path(config.work_dir))


def probe_recipe(num_clips: int) -> Recipe:
    return Recipe("probe", 1, {"clips": num_clips}, {})


def inputs(at: Context, num_clips: int, *, bucketed: bool) -> dict[str, Artifact]:
    """The artifacts that a phase reads, found as `sana plan` finds them."""
    probe = find(at.store, probe_recipe(num_clips))
    assert probe is not None
    if not bucketed:
        return {"probed_clips": probe}
    made = find(at.store, bucket.recipe(at, {"probed_clips": probe}))
    assert made is not None
    return {"probed_clips": probe, "windows": made}


def constant(kind: pa.DataType, num: int) -> pa.Array:
    """A column of one plausible value."""
    if pa.types.is_list(kind):
        return pa.array([[1]] * num, kind)
    return pa.repeat(pa.scalar("x" if pa.types.is_string(kind) else 1).cast(kind), num)


# ---- the phases


def manifest(at: Context, num_clips: int) -> dict[str, Any]:
    """Write the table that probe would write; a longer manifest begins with a shorter one's clips."""
    made = {field.name: constant(field.type, num_clips) for field in PROBED}
    ids = np.random.Generator(np.random.Philox(0)).bytes(10 * num_clips).hex()
    made["clip_id"] = made["source_id"] = made["digest"] = pa.array([ids[i : i + 20] for i in range(0, len(ids), 20)])
    made["path"] = pa.array([f"shows/{i % 1000:03d}/{i:08d}.mp4" for i in range(num_clips)])
    made["dataset"] = pa.repeat("disney", num_clips)
    sizes = np.array([(1920 - 16 * k, 1080 - 8 * (k % 20)) for k in range(20)])
    sizes = np.concatenate([sizes, sizes[:, ::-1]])
    pick, frames, fps = (np.random.Generator(np.random.Philox(1 + k)).random(num_clips) for k in range(3))
    frames, fps = 20 + (frames * 580).astype(int), np.array([24.0, 25.0, 29.97, 60.0])[(fps * 4).astype(int)]
    shape = sizes[(pick * len(sizes)).astype(int)]
    columns = {
        "width": shape[:, 0],
        "height": shape[:, 1],
        "num_frames": frames,
        "fps": fps,
        "duration_s": frames / fps,
    }
    made |= {name: pa.array(values).cast(PROBED.field(name).type) for name, values in columns.items()}
    table = pa.table([made[name] for name in PROBED.names], schema=PROBED)
    draft = Draft(at.store, probe_recipe(num_clips))
    draft.add("clips.parquet", to_parquet(table))
    draft.commit(
        content={"clips": content_digest(table, PROBED.names)},
        counts=Counts.all_kept(num_clips),
    )
    return {}


def run_bucket(at: Context, num_clips: int) -> dict[str, Any]:
    """The bucket stage, its commit included."""
    read = inputs(at, num_clips, bucketed=False)
    counts = bucket.run(at, read, bucket.recipe(at, read)).counts
    return {"note": f"{counts.num_out} clips used, {counts.num_rejected} rejected"}


def count_remaining(at: Context, num_clips: int) -> dict[str, Any]:
    """What `sana plan` does for these two stages: bucket is found, and what encode_latents has left is counted."""
    given = inputs(at, num_clips, bucketed=True)
    assert find(at.store, encode_latents.recipe(at, given)) is None
    done, total, unit = encode_latents.remaining(at, given)
    return {"note": f"{total - done} of {total} {unit} to do"}


def plan_epoch(at: Context, num_clips: int) -> dict[str, Any]:
    """The batches of one epoch over the train samples; reading the table is not counted."""
    from sana.data.loading.epoch import epoch_plan  # here: the other phases must not pay for torch's memory

    table = read_table(at.store, inputs(at, num_clips, bucketed=True)["windows"], "clips.parquet")
    codes = table["bucket"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.uint16)
    del table
    started, before = time.perf_counter(), time.process_time()
    plan = epoch_plan(codes, seed=0, epoch=0, batch_size=64)
    used = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - before}
    return {**used, "note": f"{len(plan)} batches of 64 of {len(codes)} samples"}


def fill_pool(at: Context, num_clips: int) -> dict[str, Any]:
    """Parts of 64 latents for every window, compacted into one table: the pool after a finished encode."""
    from sana.model.model_resolver import resolve_model

    windows = read_table(at.store, inputs(at, num_clips, bucketed=True)["windows"], "clips.parquet")
    keys = [sample_key(row) for row in windows.select(list(SAMPLE_KEY_COLUMNS)).to_pylist()]
    pool = encode_latents.pool_of(at, resolve_model(at.config.model, work_dir=at.work_dir))
    for start in range(0, len(keys), 64):
        part = keys[start : start + 64]
        columns = {field.name: constant(field.type, len(part)) for field in LATENTS} | {"sample_key": pa.array(part)}
        pool.commit_part(pa.table([columns[name] for name in LATENTS.names], schema=LATENTS))
    pool.compact()
    return {"note": f"{-(-len(keys) // 64)} parts"}


PHASES: dict[str, Callable[[Context, int], dict[str, Any]]] = {
    phase.__name__: phase for phase in (manifest, run_bucket, count_remaining, plan_epoch, fill_pool)
}


def measured(folder: Path, phase: str, num_clips: int) -> tuple[float, float, float, str]:
    """Run a phase in a process of its own; return seconds, CPU seconds, peak MiB and its note."""
    command = [sys.executable, "-m", "benchmarks.dry_run", phase, str(folder), str(num_clips)]
    said = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return said["seconds"], said["cpu"], said["peak_mib"], said.get("note", "")


def fake_model(folder: Path) -> None:
    """Files that name a model: nothing here loads it."""
    for name in ("transformer", "vae", "text_encoder", "tokenizer", "scheduler"):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text("{}")
    (folder / "model_index.json").write_text("{}")


def main(num_clips: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fake_model(folder / "model")
        (folder / "work").mkdir()
        measured(folder, "manifest", num_clips)
        rows = [
            ("bucket stage", num_clips, measured(folder, "run_bucket", num_clips)),
            ("plan: what encode_latents has left", num_clips, measured(folder, "count_remaining", num_clips)),
            ("epoch plan", num_clips, measured(folder, "plan_epoch", num_clips)),
        ]
        for num, phases in ((GROWING, ("manifest", "run_bucket", "fill_pool")), (GROWING + 1, ("manifest",))):
            for phase in phases:
                measured(folder, phase, num)
        more = GROWING + 1
        rows.append(("one clip more: bucket stage", more, measured(folder, "run_bucket", more)))
        rows.append(("one clip more: what encode_latents has left", more, measured(folder, "count_remaining", more)))
    print("| phase | clips | seconds | CPU seconds | peak MiB | |\n|---|---|---|---|---|---|")
    for what, num, (seconds, cpu, peak, note) in rows:
        print(f"| {what} | {num:,} | {seconds:.1f} | {cpu:.1f} | {peak:.0f} | {note} |")


def child(phase: str, folder: Path, num_clips: int) -> None:
    at = context(folder)
    started, before = time.perf_counter(), time.process_time()
    said = PHASES[phase](at, num_clips)
    used = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - before}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**used, "peak_mib": peak, **said}))


if __name__ == "__main__":
    if len(sys.argv) == 4:
        child(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
