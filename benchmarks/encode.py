"""Is encoding as fast as its VAE, does it scale to two workers, and does its memory stay flat?

    python -m benchmarks.encode [ratio] [decoding] [memory] [planning]

ratio: the stage's worker against a bare serial script (PyAV, resize, the same VAE, nothing stored) on the same clips,
in turns, on one core and with two workers on two. decoding: against the VAE, at 81x480x832. memory: peak of the
worker with 10 and with 1,000 clips. planning: the pool in single parts and compacted. All with the tiny VAE;
`decoding` measures one of the published size as well. Processes are forked with their imports done, so no figure
holds the ten seconds that torch takes to import.
"""

import importlib
import os
import resource
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pytest
import torch
from diffusers import AutoencoderKLWan
from PIL import Image

from sana.arrow import to_parquet
from sana.artifact import Artifact, FileInfo
from sana.bucket import Bucket
from sana.context import Context
from sana.data.schemas import LATENTS
from sana.data.tables import read_table, sample_keys
from sana.data.video.frames import read_window
from sana.data.video.video import to_pixels
from sana.model.model_resolver import resolve_model
from sana.model.tiny_model import build_tiny_model
from sana.model.vae import encode_latents, load_vae
from sana.pipeline.plan import inputs_of
from sana.runtime.job import read_job
from sana.runtime.specs import EncodeLatentsSpec
from sana.runtime.worker_process import keep_freed_memory
from sana.stages import encode_latents as stage
from tests.pipeline_runs import CLIPS, Place, inline_workers, run_stages
from tests.video_files import make_video

REPEATS = 3


def clips(folder: Path, count: int, *, bucket: str) -> Place:
    """Make `count` videos of distinct content from the demo's, run them up to bucket, and return their place."""
    originals = [CLIPS / f"{name}.mp4" for name in ("skyline-00", "towers-00", "bunny-00")]
    (folder / "clips").mkdir(parents=True)
    (folder / "work").mkdir()
    for number in range(count):
        original = originals[number % len(originals)]
        name = f"{original.stem.partition('-')[0]}-{number:04d}"
        box = struct.pack(">I4sQ", 16, b"free", number)  # players skip it, digests do not
        (folder / "clips" / f"{name}.mp4").write_bytes(original.read_bytes() + box)
        (folder / "clips" / f"{name}.txt").write_text("a clip")
    build_tiny_model(folder / "tiny")
    place = Place(folder, folder / "tiny", str(folder / "root"))
    run_stages(place.context(f"bucket.buckets=[{bucket}]"), last="bucket")
    return place


def context_and_inputs(place: Place, bucket: str, *overrides: str) -> tuple[Context, dict[str, Artifact]]:
    """Context and inputs of the stage: a pool of its own, and the windows, made before."""
    resources = [f"encode_latents.resources.{text}" for text in overrides]
    context = place.context(f"bucket.buckets=[{bucket}]", *resources)
    return replace(context, salt=os.urandom(4).hex()), inputs_of(context, stage.NAME)


def ours(context: Context, inputs: dict[str, Artifact]) -> None:
    keep_freed_memory()  # as every worker process does
    with inline_workers():
        stage.encode_partition(context, inputs)


def bare(place: Place, bucket: str) -> None:
    """The bare script, twenty lines: one clip after the other, nothing checked, nothing stored."""
    torch.set_num_threads(1)
    shape = Bucket.parse(bucket)
    vae = load_vae(str(place.model))
    for path in sorted(place.clips.glob("*.mp4")):
        with av.open(str(path)) as container:
            images = []
            for frame in container.decode(video=0):
                image = frame.to_image()
                scale = max(shape.width / image.width, shape.height / image.height)
                left, top = (image.width - shape.width / scale) / 2, (image.height - shape.height / scale) / 2
                box = (left, top, image.width - left, image.height - top)
                images.append(np.asarray(image.resize((shape.width, shape.height), Image.Resampling.BICUBIC, box=box)))
                if len(images) == shape.num_frames:
                    break
        encode_latents(vae, torch.from_numpy(to_pixels(np.stack(images)))[None])


def measured(target: Callable[..., None], *arguments: Any, cores: int) -> tuple[float, float, float]:
    """Run in a forked process on so many cores; returns wall seconds, CPU seconds and peak memory in MiB."""
    ask, answer = get_context("fork").Pipe()
    child = get_context("fork").Process(target=_child, args=(answer, target, arguments, cores))
    child.start()
    answer.close()  # so that a child that dies ends the waiting
    result = ask.recv()
    child.join()
    return result


def _child(answer: Any, target: Callable[..., None], arguments: tuple[Any, ...], cores: int) -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    Path("/proc/self/clear_refs").write_text("5")  # forget the parent's peak
    started, cpu = time.perf_counter(), time.process_time()
    target(*arguments)
    wall, used = time.perf_counter() - started, time.process_time() - cpu
    used += sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    answer.send((wall, used, int(peak.split()[1]) / 1024))


def ratio(folder: Path) -> None:
    bucket, count = "17x96x160", 60
    place = clips(folder, count, bucket=bucket)
    one = []
    for _ in range(REPEATS):
        given = context_and_inputs(place, bucket, "decode_threads=1")
        one.append((measured(bare, place, bucket, cores=1), measured(ours, *given, cores=1)))
    two = []
    for _ in range(REPEATS):
        given = context_and_inputs(place, bucket, "num_workers=2", "decode_threads=1", "samples_per_part=8")
        base = measured(bare, place, bucket, cores=1)
        with pytest.MonkeyPatch.context() as patch:
            used: list[float] = []
            patch.setattr("sana.runtime.worker.launch", partial(launch_pinned, used))
            started = time.perf_counter()
            stage.encode_partition(*given)
            two.append((base[0] / (time.perf_counter() - started), base[1] / max(used)))
    wall = statistics.median(b[0] / o[0] for b, o in one)
    cpu = statistics.median(b[1] / o[1] for b, o in one)
    print(f"| {count} clips at {bucket}, bare script | {statistics.median(b[0] for b, _ in one):.1f} s |")
    print(f"| rate on one core, against the bare script (wall; CPU) | {wall:.2f}; {cpu:.2f} |")
    both, busier = (statistics.median(values) for values in zip(*two, strict=True))
    print(f"| rate of two workers on two cores, against the bare script (wall) | {both:.2f} |")
    print(f"| the same by CPU seconds of the busier worker: expected of two idle cores | {busier:.2f} |")


def launch_pinned(used: list[float], module: str, job_path: Path, *, num_processes: int, **_other: object) -> None:
    """Launch workers as forks, each on a core of its own; `used` gets the CPU seconds of each."""
    cores = sorted(os.sched_getaffinity(0))
    pids = []
    for rank in range(num_processes):
        pid = os.fork()
        if pid == 0:
            os.sched_setaffinity(0, {cores[rank % len(cores)]})
            os.environ["RANK"] = str(rank)
            keep_freed_memory()
            importlib.import_module(module).encode(read_job(job_path, EncodeLatentsSpec))
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        _, status, usage = os.wait4(pid, 0)
        assert status == 0, "a worker failed"
        used.append(usage.ru_utime + usage.ru_stime)


def decoding(folder: Path) -> None:
    folder.mkdir(parents=True)
    video = make_video(folder / "clip.mp4", num_frames=81, width=832, height=480)
    window: dict[str, object] = {"bucket": "81x480x832", "start_frame": 0, "window_fps": 0.0}
    window |= {"crop_left": 0.0, "crop_top": 0.0, "crop_width": 832.0, "crop_height": 480.0, "treatment": ""}
    decode = min(_cpu(lambda: to_pixels(read_window(video, window))) for _ in range(REPEATS))
    pixels = torch.from_numpy(to_pixels(read_window(video, window)))[None]
    torch.set_num_threads(1)
    build_tiny_model(folder / "tiny")
    vae = load_vae(str(folder / "tiny"))
    tiny = _cpu(lambda: encode_latents(vae, pixels))
    published = AutoencoderKLWan().eval().requires_grad_(False)  # the published size, random weights
    few = 5
    real = _cpu(lambda: encode_latents(published, pixels[:, :, :few]))
    print(f"| decode, resize and scale one 81x480x832 window | {decode:.2f} s CPU |")
    print(f"| the tiny VAE on it | {tiny:.2f} s CPU |")
    # causal: a first frame, then groups of four, each of which costs the same
    first = _cpu(lambda: encode_latents(published, pixels[:, :, :1]))
    estimate = first + 20 * (real - first)
    print(f"| a VAE of the published size, {few} frames (random weights) | {real:.1f} s CPU |")
    print(f"| the same for 81 frames, estimated as 1 + 20 x 4 frames | {estimate:.0f} s CPU |")
    print(f"| decoding, part of that | {decode / estimate:.2%} |")


def _cpu(body: Callable[[], object]) -> float:
    started = time.process_time()
    body()
    return time.process_time() - started


def memory(folder: Path) -> None:
    bucket = "5x96x160"
    for count in (10, 100, 1000):
        place = clips(folder / str(count), count, bucket=bucket)
        wall, _, peak = measured(ours, *context_and_inputs(place, bucket), cores=1)
        print(f"| peak memory with {count} clips at {bucket} | {peak:.0f} MiB ({wall:.0f} s) |")


def planning(folder: Path) -> None:
    """What the stage does before its worker when one clip of 100,001 is new: in 1,563 single parts, and compacted."""
    count = 100_000
    place = clips(folder, 4, bucket="17x96x160")
    context = place.context("bucket.buckets=[17x96x160]")
    inputs = inputs_of(context, stage.NAME)
    one = read_table(context.store, inputs["windows"], "clips.parquet").slice(0, 1)
    many = pa.concat_tables([one] * (count + 1)).combine_chunks()
    digests = pa.array([f"{number:032x}" for number in range(count + 1)])
    many = many.set_column(many.column_names.index("digest"), "digest", digests)
    file = FileInfo("bucket/many/clips.parquet", 0, "")
    context.store.put_if_absent(file.key, to_parquet(many))
    inputs = {"windows": replace(inputs["windows"], files={"clips.parquet": file})}
    pool = stage.pool_of(context, resolve_model(context.config.model, work_dir=context.work_dir))
    keys = sample_keys(many)
    zeros = {f.name: pa.nulls(count, f.type).fill_null(0) for f in LATENTS if pa.types.is_integer(f.type)}
    columns = {
        **{f.name: pa.array(["x" * 32] * count) for f in LATENTS if pa.types.is_string(f.type)},
        **zeros,
        "sample_key": keys.slice(0, count),
        "shape": pa.array([[16, 5, 12, 20]] * count, pa.list_(pa.int64())),
    }
    encoded = pa.table([columns[name] for name in LATENTS.names], schema=LATENTS)
    for start in range(0, count, 64):
        pool.commit_part(encoded.slice(start, 64))
    for state in ("in 1,563 single parts", "compacted"):
        started, cpu = time.perf_counter(), time.process_time()
        stage.recipe(context, inputs)
        assert stage.remaining(context, inputs) == (count, count + 1, "samples")
        used = time.process_time() - cpu
        wall = time.perf_counter() - started
        print(f"| planning with 1 of {count + 1} new, pool {state} | {wall:.2f} s, {used:.2f} s CPU |")
        pool.compact()


def main() -> None:
    names = sys.argv[1:] or ["ratio", "decoding", "memory", "planning"]
    print("| what | value |\n|---|---|")
    with tempfile.TemporaryDirectory() as name:
        for part in names:
            {"ratio": ratio, "decoding": decoding, "memory": memory, "planning": planning}[part](Path(name) / part)


if __name__ == "__main__":
    main()
