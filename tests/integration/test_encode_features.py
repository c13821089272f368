"""Encode features: the same for any number of workers and part size, after a kill, of the right frames; its bytes."""

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Dinov2Model

import sana.data.video.windows_ahead as ahead
import sana.workers.encode_features as work
from flows.display.costs import costs_lines
from sana.artifact import Artifact
from sana.bucket import Bucket
from sana.context import Context
from sana.data.shards.shard import Location, read_tensor
from sana.data.tables import read_table
from sana.data.video.frames import read_window
from sana.pipeline.costs import plan_costs
from sana.pipeline.plan import inputs_of, plan
from sana.stages import encode_features as stage
from sana.store import open_store
from tasks.tracking.values import pipeline_key
from tests.forked import forked_workers
from tests.pipeline_runs import Place, inline_workers, new_place, run_alone, run_stages

pytestmark = pytest.mark.timeout(240)

SIZE = 16  # numbers of a feature of the tiny encoder
WITH_CREPA = ("train.crepa.block_index=1", "encode_features.short_side=28")


@pytest.fixture(scope="module")
def overrides(tiny_encoder: Path) -> tuple[str, ...]:
    return (*WITH_CREPA, f"encode_features.encoder={tiny_encoder}")


@pytest.fixture(scope="module")
def bucketed(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Place:
    """The demo's clips up to bucket; each test encodes them into a root of its own."""
    place = new_place(tmp_path_factory.mktemp("features"), tiny_model)
    with inline_workers():
        run_stages(place.context(), last="bucket")
    return place


def at_root(place: Place, root: Path, *overrides: str) -> tuple[Context, dict[str, Artifact]]:
    """Return the context and the inputs of the stage, whose tables are in the first root and whose pool in `root`."""
    context = place.context(*overrides)
    inputs = inputs_of(context, stage.NAME)
    data = context.store.read(inputs["windows"].files["clips.parquet"].key)
    store = open_store(str(root))
    store.put_if_absent(inputs["windows"].files["clips.parquet"].key, data)
    config = context.config.model_copy(update={"root": str(root)})
    return replace(context, config=config, store=store), inputs


@pytest.fixture(scope="module")
def reference(
    bucketed: Place, overrides: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Artifact, Context]:
    context, inputs = at_root(bucketed, tmp_path_factory.mktemp("reference"), *overrides)
    with inline_workers():
        return run_alone(stage, context, inputs), context


def test_each_feature_is_that_of_dinov2_on_the_frame_that_its_latent_frame_stands_for(
    reference: tuple[Artifact, Context], bucketed: Place, tiny_encoder: Path
) -> None:
    """Written out: frame 4 k, resized by torch, ImageNet's colours, patches averaged by two to the grid."""
    made, context = reference
    model = Dinov2Model.from_pretrained(tiny_encoder).eval()
    mean, std = (torch.tensor(of).view(3, 1, 1) for of in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    windows = {row["sample_id"]: row for row in read_table(context.store, made, "clips.parquet").to_pylist()}
    rows = read_table(context.store, made, "index.parquet").to_pylist()
    assert {row["split"] for row in rows} == {"train"} and len(rows) < len(windows)
    for row in [next(row for row in rows if row["bucket"] == bucket) for bucket in {row["bucket"] for row in rows}]:
        bucket = Bucket.parse(row["bucket"])
        found = read_tensor(context.store, Location.of(row))
        window = windows[row["sample_id"]]
        frames = read_window(bucketed.clips / window["path"], window)
        height, width = (
            28 if side == min(bucket.height, bucket.width) else 56 for side in (bucket.height, bucket.width)
        )
        grid = (bucket.height // 32, bucket.width // 32)
        assert found.shape == (1 + (bucket.num_frames - 1) // 4, *grid, SIZE) and found.dtype == torch.float16
        for k in range(len(found)):
            pixels = torch.from_numpy(frames[4 * k].astype(np.float32) / 255).permute(2, 0, 1)
            resized = torch.nn.functional.interpolate(pixels[None], (height, width), mode="bicubic", antialias=True)
            with torch.no_grad():
                tokens = model((resized.clamp(0, 1) - mean) / std).last_hidden_state[0, 1:]
            patches = tokens.view(height // 14, width // 14, SIZE)
            expected = patches.view(grid[0], 2, grid[1], 2, SIZE).mean((1, 3))
            assert torch.allclose(found[k].float(), expected, atol=4e-3), (row["bucket"], k)
    spread = torch.stack([read_tensor(context.store, Location.of(row)).float().mean((0, 1, 2)) for row in rows]).std(0)
    assert spread.mean() > 0.01, "the encoder sees no difference between clips"


@pytest.mark.parametrize(("workers", "part", "threads"), [(2, 1, 2)])
def test_any_number_of_workers_and_part_size_gives_the_same(
    bucketed: Place, overrides: tuple[str, ...], reference: tuple[Artifact, Context], tmp_path: Path,
    workers: int, part: int, threads: int,
) -> None:  # fmt: skip
    resources = {"num_workers": workers, "samples_per_part": part, "decode_threads": threads}
    settings = [f"encode_features.resources.{name}={value}" for name, value in resources.items()]
    context, inputs = at_root(bucketed, tmp_path, *overrides, *settings)
    with forked_workers() as launches:
        made = run_alone(stage, context, inputs)
    assert launches == [workers]
    assert made.content == reference[0].content and made.counts == reference[0].counts
    assert made.content["windows"] == inputs["windows"].content["windows"], "latents keep their address"


def crash_at(digest: str) -> None:
    """Let the decoder crash whenever it is given this video."""
    read_windows = ahead.read_windows

    def read(path: Path, windows: Sequence[dict]) -> Iterator[object]:
        if windows[0]["digest"] == digest:
            os.kill(os.getpid(), signal.SIGSEGV)
        yield from read_windows(path, windows)

    ahead.read_windows = read  # type: ignore[assignment]  # this process is a worker's, and ends with it


def test_what_was_committed_before_a_kill_is_not_made_again(
    bucketed: Place, overrides: tuple[str, ...], reference: tuple[Artifact, Context], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    context, inputs = at_root(bucketed, tmp_path, *overrides, "encode_features.resources.samples_per_part=2")
    total = stage.remaining(context, inputs)[1]
    encode, made_now = work.FeatureEncoder.encode, []

    def killed(*args: Any, **named: Any) -> torch.Tensor:
        made_now.append(1)
        if len(made_now) == 6:
            raise KeyboardInterrupt
        return encode(*args, **named)

    monkeypatch.setattr(work.FeatureEncoder, "encode", killed)
    with inline_workers(), pytest.raises(KeyboardInterrupt):
        run_alone(stage, context, inputs)
    done = stage.remaining(context, inputs)[0]
    assert 2 <= done < 6 < total
    made_now = [1] * 10
    with inline_workers():
        made = run_alone(stage, context, inputs)
    assert len(made_now) - 10 == made.counts.extra["encoded"] == total - done
    assert made.content == reference[0].content


def test_a_clip_that_crashes_its_worker_twice_leaves_the_windows(
    bucketed: Place, overrides: tuple[str, ...], reference: tuple[Artifact, Context], tmp_path: Path
) -> None:
    context, inputs = at_root(bucketed, tmp_path, *overrides, "encode_features.resources.samples_per_part=2")
    windows = read_table(context.store, inputs["windows"], "clips.parquet").to_pylist()
    crashing = next(row for row in windows if row["split"] == "train")
    with forked_workers(partial(crash_at, crashing["digest"])):
        made = run_alone(stage, context, inputs)
    rejected = read_table(context.store, made, "rejects.parquet").to_pylist()
    assert {(row["path"], row["reason"]) for row in rejected} == {(crashing["path"], "killed_worker")}
    left = {row["sample_id"] for row in read_table(context.store, made, "clips.parquet").to_pylist()}
    assert left == {row["sample_id"] for row in windows if row["digest"] != crashing["digest"]}
    assert made.counts.num_in == made.counts.num_out + len(rejected) == reference[0].counts.num_in


def test_a_run_aligns_and_plans_its_bytes_before(bucketed: Place, overrides: tuple[str, ...]) -> None:
    context = bucketed.context(*overrides, "train.max_steps=2", "train.resources.log_every=1")
    plans = plan(context, last="train")
    (cost,) = [one for one in plan_costs(context, plans).stages if one.name == stage.NAME]
    assert cost.seconds is None and cost.written_bytes is not None
    with inline_workers():
        done = run_stages(context, last="train")
    assert done.ran[0] == stage.NAME and "bucket" not in done.ran
    index = read_table(context.store, done["encode_features"], "index.parquet")
    assert cost.written_bytes == sum(index["num_bytes"].to_pylist())
    train = done["train"]
    assert "features" in train.inputs
    unset = bucketed.context("train.max_steps=2", "encode_features.short_side=56")
    assert pipeline_key(unset.config) != pipeline_key(context.config) != pipeline_key(bucketed.context().config)
    assert stage.NAME not in [one.name for one in plan(unset, last="train")]
    # before anything is counted
    fresh = replace(context, store=open_store(str(bucketed.folder / "nothing")))
    text = "\n".join(costs_lines(plan_costs(fresh, plan(fresh)), None))
    assert "encode_features: " in text and "for each train sample of 17x" in text
