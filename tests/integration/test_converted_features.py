"""What else the quickstart offers, converted and trained for a few steps on the demo's clips."""

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from sana.artifact import Artifact
from sana.config.load import load_config
from sana.context import Context
from sana.convert.simpletuner import convert
from sana.convert.yaml_text import yaml_text
from sana.facts import TrainFacts
from sana.metrics import parse_rows
from sana.model.tiny_model import build_tiny_encoder
from sana.pipeline.graph import stages_of
from sana.store import open_store
from tests.pipeline_runs import Outcome, Place, inline_workers, new_place, run_stages
from tests.quickstart_files import BACKENDS, CONFIG, video

pytestmark = pytest.mark.timeout(120)

ALWAYS = ("crepa", "masks")  # the others are in the slow group

STEPS = 3
ROLLOUT = {"scheduled_sampling_max_step_offset": 2, "scheduled_sampling_probability": 1.0}
# by name: keys of theirs, and what must be seen in the metrics or files of the training
FEATURES: dict[str, tuple[dict[str, Any], str]] = {
    "lora": ({"model_type": "lora", "lora_rank": 4}, "file:lora"),
    "dora": ({"model_type": "lora", "lora_rank": 4, "use_dora": True, "lora_dropout": 0.0}, "file:lora"),
    "int8": ({"model_type": "lora", "lora_rank": 4, "base_model_precision": "int8-torchao"}, "file:lora"),
    "huber": ({"loss_type": "huber", "huber_c": 0.1}, "train/huber_linear_fraction"),
    "noise": ({"snr_gamma": 5, "offset_noise": True, "noise_offset_probability": 1.0}, "train/loss"),
    "rollout": (ROLLOUT, "train/rollout"),
    "crepa": ({"crepa_enabled": True, "crepa_block_index": 1}, "train/crepa_similarity"),
    "masks": ({"masked_loss_probability": 1.0}, "train/mask_covered"),
    "image_to_video": ({}, "train/loss_image_to_video"),
    "validation": ({"validation_step_interval": 2, "validation_num_inference_steps": 2}, "validation/"),
    "publish": ({"push_to_hub": True, "hub_model_id": "me/model"}, "stage:publish"),
    "webhook": ({"webhook_config": {"webhook_type": "raw", "callback_url": "http://127.0.0.1:9/x"}}, "train/loss"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Place:
    made = new_place(tmp_path_factory.mktemp("features"), tiny_model)
    build_tiny_encoder(made.folder / "dinov2")
    masks = made.clips / "masks"
    masks.mkdir()
    for path in made.clips.glob("*.mp4"):
        try:
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
        except av.FFmpegError:  # three of the files are bad on purpose
            continue
        half = np.zeros((stream.height, stream.width), np.uint8)
        half[:, : stream.width // 2] = 255
        Image.fromarray(half).save(masks / f"{path.stem}.png")
    return made


def run(place: Place, name: str, changes: dict[str, Any]) -> tuple[Context, Outcome]:
    """Convert the quickstart with these changes, and run it on the demo's clips up to its last stage."""
    entry = video(instance_data_dir=str(place.clips))
    backends = [entry, *BACKENDS[1:]]
    if name == "masks":
        entry["conditioning_data"] = "masks"
        mask = {"id": "masks", "dataset_type": "conditioning", "conditioning_type": "mask"}
        backends.append({**mask, "type": "local", "instance_data_dir": str(place.clips / "masks")})
    if name == "image_to_video":
        entry["video"] = {**entry["video"], "is_i2v": True}
    files = place.folder / f"{name}.json", place.folder / f"{name}-backends.json"
    files[0].write_text(json.dumps({**CONFIG, "validation_step_interval": 0, **changes}))
    files[1].write_text(json.dumps(backends))
    path = place.folder / f"{name}.yaml"
    path.write_text(yaml_text(convert(*files), title=name))
    overrides = [
        f"root={place.root}", f"work_dir={place.folder / 'work'}", f"model.path={place.model}",
        f"encode_features.encoder={place.folder / 'dinov2'}", "encode_features.short_side=28",
        "download.datasets.0.max_rejected_fraction=1", "bucket.buckets=[9x32x64, 9x64x32]", "bucket.min_frames=9",
        "bucket.minimum_image_size=null", "bucket.eval_fraction=0.3", "encode_captions.padding=short",
        f"train.max_steps={STEPS}", "train.resources.eval_every=0", "train.base_check=off", "evaluate.num_sigmas=2",
        "sample.bucket=5x32x64", "sample.prompts={cat: a cat}", "sample.num_inference_steps=2",
    ]  # fmt: skip
    if name == "publish":
        overrides += [f"publish.to={place.folder / 'published'}"]
    config = load_config(path, overrides)
    context = Context(config, open_store(config.root), Path(config.work_dir))
    with inline_workers():
        return context, run_stages(context, last=None if name == "publish" else "train")


def metrics_of(context: Context, trained: Artifact) -> set[str]:
    """Return the names of all that a training measured."""
    segments = TrainFacts.of(trained).metrics
    return {name for key in segments for row in parse_rows(context.store.read(key)) for name in row}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.slow(group="converted")) for name in FEATURES],
)
def test_a_converted_feature_trains(place: Place, name: str) -> None:
    changes, expected = FEATURES[name]
    context, done = run(place, name, changes)
    trained = done["train"]
    measured = metrics_of(context, trained)
    assert TrainFacts.of(trained).step == STEPS and "train/loss" in measured
    kind, _, what = expected.rpartition(":")
    if kind == "file":
        assert any(what in file for file in trained.files)
    elif kind == "stage":
        assert what in stages_of(context.config) and what in done.ran
    else:
        assert any(metric.startswith(expected) for metric in measured), sorted(measured)
