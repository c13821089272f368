"""The data report of a synthetic store: `python -m benchmarks.report [CLIPS [PAGE]]`, one million by default.

The tables are as wide as real ones and their videos do not exist, so that the page is made of tables alone.
"""

import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sana.artifact import Draft, Recipe, latest
from sana.bucket import OFFICIAL_480P, Bucket
from sana.config.bucket import BucketRules
from sana.config.load import load_config
from sana.context import Context
from sana.counts import Counts, DatasetCounts
from sana.data import schemas
from sana.data.bucketing.assignment import ClipShapes, crop_boxes, nearest_buckets
from sana.facts import BucketFacts
from sana.report.page import data_report
from sana.report.states import StageState
from sana.store import Store, open_store

SIZES = ((1920, 1080), (1280, 720), (1080, 1920), (3840, 2160), (720, 720), (1024, 768), (640, 480), (1920, 800))
BUCKETS = [Bucket(81, height, width) for height, width in OFFICIAL_480P]
REASONS = {"download": ["no_caption"], "probe": ["truncated", "unreadable"], "bucket": ["too_short", "too_small"]}
BATCH = 250_000
STAGES = ("download", "probe", "bucket", "encode_captions", "encode_latents")


def main(num_clips: int = 1_000_000) -> None:
    with tempfile.TemporaryDirectory() as folder:
        artifacts(open_store(f"{folder}/root"), num_clips)
        # in a process of its own: making the tables takes more memory than reading them
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            process.submit(int).result()
            seconds, cpu, num_bytes, before, after = process.submit(page, folder).result()
    print("| clips | seconds | CPU seconds | page, kB | MiB before | peak MiB |\n|---|---|---|---|---|---|")
    print(f"| {num_clips:,} | {seconds:.1f} | {cpu:.1f} | {num_bytes / 1e3:.0f} | {before:.0f} | {after:.0f} |")


def page(folder: str) -> tuple[float, float, int, float, float]:
    """Make the page; returns seconds, CPU seconds, bytes, and the peak memory before and after in MiB."""
    config = load_config("configs/demo.yaml", [f"root={folder}/root", f"work_dir={folder}/work"])
    store = open_store(config.root)
    states = [StageState(name, "committed", latest(store, name)) for name in STAGES]
    before = peak_mib()
    started, cpu = time.perf_counter(), time.process_time()
    made = data_report(Context(config, store, Path(config.work_dir)), "synthetic", states, now=time.time())
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(made, encoding="utf-8")
    return seconds, cpu, len(made.encode()), before, peak_mib()


def peak_mib() -> float:
    """Peak memory since this program began; getrusage would count what it was forked from."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024


def artifacts(store: Store, num_clips: int) -> None:
    """Commit download to encode_latents; 3 % of the clips are rejected on the way."""
    left = num_clips
    for stage in STAGES:
        draft = Draft(store, Recipe(stage, 1, {"max_tokens": 300}, {}))
        reasons = REASONS.get(stage, [])
        rejected = dict.fromkeys(reasons, left // 200)
        num_in, left = left, left - sum(rejected.values())
        names = {"download": ["clips", "captions"], "probe": ["clips"], "bucket": ["clips"]}.get(stage, ["index"])
        for name in names:
            add(store, draft, stage, f"{name}.parquet", left)
        if stage != "encode_captions":
            add_rejects(store, draft, stage, rejected)
        num_rejected = sum(rejected.values())
        datasets = {"demo": DatasetCounts(num_in, num_rejected)}
        counts = Counts(num_in, left, num_rejected, rejected, datasets, num_samples=None, extra={})
        facts = BucketFacts({}, 1, {}, 160 * left, 81 * left, 79 * left) if stage == "bucket" else None
        draft.commit(content={}, counts=counts, facts=facts)


def add(store: Store, draft: Draft, stage: str, name: str, num_rows: int) -> None:
    key = f"{stage}/{draft.recipe.fingerprint}/{name}"
    path = store.local_path(key)
    assert path is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = schema_of(stage, name)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, num_rows, BATCH):
            writer.write_table(rows(schema, start, min(BATCH, num_rows - start)))
    draft.refer(name, key, num_bytes=path.stat().st_size, digest="")


def add_rejects(store: Store, draft: Draft, stage: str, rejected: dict[str, int]) -> None:
    reasons = np.repeat(list(rejected), list(rejected.values())) if rejected else np.array([], str)
    num = len(reasons)
    ids = [f"{i:020x}" for i in range(num)]
    table = pa.table(
        {
            "clip_id": ids,
            "dataset": ["demo"] * num,
            "path": [f"videos/{i % 997:04d}/a name with spaces {i:08d}.mp4" for i in range(num)],
            "stage": [stage] * num,
            "reason": reasons.tolist(),
            "detail": [f"{i % 80} frames; the shortest bucket needs 81" for i in range(num)],
        },
        schema=schemas.REJECTS,
    )
    key = f"{stage}/{draft.recipe.fingerprint}/rejects.parquet"
    pq.write_table(table, store.local_path(key))
    draft.refer("rejects.parquet", key, num_bytes=store.size(key), digest="")


def schema_of(stage: str, name: str) -> pa.Schema:
    of_clips = {"download": schemas.CLIPS, "probe": schemas.PROBED, "bucket": schemas.WINDOWS}
    indexes = {"encode_captions": schemas.CAPTION_INDEX, "encode_latents": schemas.LATENT_INDEX}
    return schemas.CAPTIONS if name == "captions.parquet" else {**of_clips, **indexes}[stage]


def rows(schema: pa.Schema, start: int, num: int) -> pa.Table:
    """Make rows `start` to `start + num` of any of the tables."""
    random = np.random.default_rng(start)
    number = np.arange(start, start + num)
    ids = [f"{(int(i) * 2654435761) % 2**80:020x}" for i in number]
    size = random.choice(len(SIZES), num, p=[0.45, 0.2, 0.12, 0.05, 0.05, 0.05, 0.05, 0.03])
    widths, heights = np.array(SIZES).T
    width, height = widths[size], heights[size]
    clips = ClipShapes(widths, heights, np.full(len(SIZES), 81))
    code = nearest_buckets(clips, BUCKETS, allow_upscale=True)
    shapes = [BUCKETS[i] for i in code]
    boxes = np.stack(crop_boxes(BucketRules(), clips, code, BUCKETS, np.zeros(len(SIZES), np.uint64)), axis=1)[size]
    duration = np.round(random.lognormal(1.9, 0.6, num), 3)
    fps = random.choice([23.976, 24.0, 25.0, 29.97, 30.0, 60.0], num, p=[0.2, 0.15, 0.2, 0.25, 0.15, 0.05])
    words = random.integers(6, 90, num)
    tokens = np.minimum(300, words * 4)
    vocabulary = [
        "a",
        "slow",
        "pan",
        "over",
        "the",
        "old",
        "harbour",
        "at",
        "dawn",
        "with",
        "boats",
        "under",
        "light",
        "rain",
    ]
    columns: dict[str, object] = {
        "clip_id": ids, "name": ids, "dataset": ["demo"] * num, "source_id": [f"s{i // 40}" for i in number],
        "path": [f"videos/{i // 1000:05d}/clip {i:08d}.mp4" for i in number],
        "num_bytes": random.integers(200_000, 9_000_000, num), "digest": [f"xxh3:{i:032x}" for i in number],
        "width": width, "height": height, "rotation_deg": np.zeros(num), "sample_aspect": np.ones(num), "fps": fps,
        "nominal_fps": fps, "variable_fps": np.zeros(num, bool), "has_audio": np.ones(num, bool),
        **{name: ["bt709"] * num for name in ("color_space", "color_primaries", "color_transfer", "color_range")},
        "field_order": ["progressive"] * num,
        "num_frames": (duration * fps).astype(int), "duration_s": duration,
        "codec": random.choice(["h264", "hevc", "vp9", "av1"], num, p=[0.8, 0.1, 0.06, 0.04]),
        "pixel_format": random.choice(["yuv420p", "yuv420p10le"], num, p=[0.95, 0.05]), "bit_depth": np.full(num, 8),
        "sample_id": [f"{name}-000000" for name in ids], "bucket": [str(shapes[i]) for i in size],
        "start_frame": np.zeros(num), "window_fps": np.zeros(num), "crop_left": boxes[:, 0], "crop_top": boxes[:, 1],
        "crop_width": boxes[:, 2], "crop_height": boxes[:, 3], "split": np.where(number % 50 == 0, "eval", "train"),
        "draws_per_epoch": np.ones(num), "treatment": [""] * num,
        "captions": [[" ".join((vocabulary * 7)[:n])] * (1 + (n % 7 == 0)) for n in words],
        "sample_key": [f"{i:032x}" for i in number], "shard": [f"pool/x/shards/{i // 80:09d}.st" for i in number],
        "offset": (number % 80) * 3_200_000, "dtype": ["fp16"] * num, "provenance": ["cpu"] * num,
        "shape": [[int(t), 2304] for t in tokens], "role": np.where(number % 50 == 0, "eval", "train"),
        "position": np.zeros(num), "text_key": [f"{i:032x}" for i in number], "text": ["a text"] * num,
        "template": ["video"] * num, "truncated": tokens == 300,
    }  # fmt: skip
    arrays = [pa.array(columns[field.name]).cast(field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


if __name__ == "__main__":
    main(int(sys.argv[1].replace("_", "")) if len(sys.argv) > 1 else 1_000_000)
