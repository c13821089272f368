"""Conversion from SimpleTuner keeps what was meant: data sets, captions, buckets, schedules, optimizers."""

import json
from pathlib import Path

import pytest

from tests.quickstart_files import CONFIG, QUICKSTART, accounted, all_keys, converted, video

pytestmark = pytest.mark.timeout(60)


def test_several_video_backends_become_several_data_sets(tmp_path: Path) -> None:
    config, conversion = converted(
        tmp_path,
        {"resolution": 480},
        [
            video("One Clip", repeats=2, probability=0.5),
            video("wide", resolution=720, video={"num_frames": 49, "max_frames": 200}),
            video("kept-out", dataset_type="eval"),
            video("off", disabled="true"),
            {"id": "stills", "type": "local", "dataset_type": "image", "instance_data_dir": "x"},
        ],
    )
    first, wide, held_out, off = config.download.datasets
    assert (first.id, first.repeats, first.sampling_weight, first.draws_per_epoch) == ("one-clip", 2, 0.5, 1.5)
    assert (config.rules_of(first).table, config.rules_of(first).num_frames) == ("official_480p", 81)
    own = config.rules_of(wide)
    assert (own.table, own.num_frames, own.max_frames, own.too_long) == ("official_720p", 49, 200, "reject")
    assert (held_out.role, config.bucket.eval_fraction) == ("eval", 0)
    assert off.disabled
    assert "stills.instance_data_dir" in {key.name for key in conversion.not_carried}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"caption_strategy": "instanceprompt", "instance_prompt": "noir"}, {"layout": "none", "fallback": "noir"}),
        ({"prepend_instance_prompt": True, "instance_prompt": "noir"}, {"layout": "textfile", "prefix": "noir "}),
        ({"caption_strategy": "csv", "type": "csv", "csv_file": "l.csv"}, {"text_columns": ("caption",)}),
        (
            {"caption_strategy": "parquet", "parquet": {"path": "t.parquet", "filename_column": "f",
                                                        "caption_column": "c", "width_column": "w"}},
            {"layout": "auto", "video_column": "f", "text_columns": ("c",)},
        ),
        (
            {"caption_strategy": "parquet", "parquet": {"path": "x/metadata.parquet", "caption_column": "c"}},
            {"layout": "metadata", "text_columns": ("c",)},
        ),
        ({"caption_strategy": "filename"}, {"layout": "auto"}),
    ],
)  # fmt: skip
def test_captions(tmp_path: Path, changes: dict, expected: dict) -> None:
    entry = video(**changes)
    config, conversion = converted(tmp_path, backends=[entry])
    captions = config.download.datasets[0].captions
    assert {name: getattr(captions, name) for name in expected} == expected
    assert all_keys(entry, "disney.") - accounted(conversion) == set()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"resolution": 0.4, "resolution_type": "area"}, {"table": "official_480p"}),
        ({"resolution": 512}, {"table": "resolution", "resolution": 512}),
        ({"resolution": 480, "resolution_type": "pixel"}, {"table": "official_480p"}),
        ({"crop": True, "crop_aspect": "square"}, {"buckets": ("81x624x624",), "crop": True}),
        (
            {"crop": True, "crop_aspect": "preserve", "crop_style": "random", "maximum_image_size": None},
            {"crop": False, "crop_position": "random", "table": "official_480p"},
        ),
        ({"crop_style": "random"}, {"crop_position": "center"}),
        ({"video": {"num_frames": 80}}, {"num_frames": 77, "min_frames": 77}),
        ({"video": None}, {"num_frames": 81}),
        (
            {"video": {"num_frames": 81, "bucket_strategy": "resolution_frames", "frame_interval": 10,
                       "min_frames": 17}},
            {"strategy": "resolution_frames", "frame_interval": 8, "min_frames": 17},
        ),
        ({"minimum_image_size": 0}, {"minimum_image_size": None, "allow_upscale": True}),
        ({"minimum_aspect_ratio": 0.5, "maximum_aspect_ratio": 1.5}, {"max_aspect_ratio": 2}),
    ],
)  # fmt: skip
def test_bucket_rules(tmp_path: Path, changes: dict, expected: dict) -> None:
    entry = video(**changes)
    config, conversion = converted(tmp_path, backends=[entry])
    assert {name: getattr(config.bucket, name) for name in expected} == expected
    assert all_keys(entry, "disney.") - accounted(conversion) == set()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"lr_scheduler": "constant", "lr_warmup_steps": 9}, ("constant", None, 0)),
        ({"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 9}, ("constant", None, 9)),
        ({"lr_scheduler": "polynomial", "lr_warmup_steps": 1000, "max_train_steps": 5000}, ("cosine", 4000, 1000)),
        ({"lr_scheduler": "cosine", "lr_warmup_steps": 0}, ("cosine", 1000, 500)),
    ],
)
def test_schedules(tmp_path: Path, changes: dict, expected: tuple) -> None:
    train = converted(tmp_path, changes)[0].train
    assert (
        train.lr_schedule.name,
        getattr(train.lr_schedule, "decay_steps", None),
        train.lr_schedule.warmup_steps,
    ) == expected


def test_batch_clipping_ema_and_optimizer(tmp_path: Path) -> None:
    config, _ = converted(
        tmp_path,
        {
            "--train_batch_size": 2, "train_batch_size": 2, "gradient_accumulation_steps": 4, "num_processes": 3,
            "max_grad_norm": 1.0, "grad_clip_method": "norm", "use_ema": False,
            "optimizer_config": "beta1=0.8,weight_decay=0.02,foreach=1", "checkpoints_total_limit": 0,
        },
    )  # fmt: skip
    train = config.train
    assert (train.global_batch_size, train.resources.micro_batch_size, train.resources.num_processes) == (24, 2, 3)
    assert (train.max_grad_norm, train.ema_decay, config.sample.weights) == (1.0, 0.0, "live")
    optimizer = train.optimizer
    assert (optimizer.name, optimizer.beta1, optimizer.beta2, optimizer.weight_decay) == ("adamw", 0.8, 0.999, 0.02)
    assert train.resources.max_checkpoints == 1000


def test_the_prompt_library_is_written_out(tmp_path: Path) -> None:
    library = json.loads((QUICKSTART / "user_prompt_library.json").read_text())
    (tmp_path / "user_prompt_library.json").write_text(json.dumps({**library, "old town": {"prompt": "a town"}}))
    config, _ = converted(tmp_path, {"user_prompt_library": "config/user_prompt_library.json"})
    expected = {"validation": CONFIG["validation_prompt"], **library, "old_town": "a town"}
    assert config.sample.prompts == expected
