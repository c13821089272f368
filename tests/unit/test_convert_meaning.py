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
            video("kept-out", dataset_type="eval", instance_data_dir="kept"),
            video("off", disabled="true"),
            {"id": "stills", "type": "local", "dataset_type": "image", "instance_data_dir": "x"},
        ],
    )
    first, wide, held_out, off, stills = config.download.datasets
    assert (first.id, first.repeats, first.sampling_weight, first.draws_per_epoch) == ("one-clip", 2, 0.5, 1.5)
    assert (config.rules_of(first).table, config.rules_of(first).num_frames) == ("official_480p", 81)
    own = config.rules_of(wide)
    assert (own.table, own.num_frames, own.max_frames, own.too_long) == ("official_720p", 49, 200, "reject")
    assert (held_out.role, config.bucket.eval_fraction) == ("eval", 0)
    assert off.disabled
    assert stills.source == "x" and {shape.num_frames for shape in config.rules_of(stills).shapes} == {1}
    assert config.resolved(stills).images == "read" and config.resolved(first).images == "ignore"
    assert not conversion.unknown


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
        ({"disable_multiline_split": True}, {"layout": "textfile", "lines": "one"}),
        ({"disable_multiline_split": False}, {"layout": "textfile", "lines": "alternatives"}),
        ({"disable_multiline_split": True, "caption_strategy": "parquet", "parquet": {"path": "x/metadata.parquet"}},
         {"layout": "metadata", "lines": "alternatives"}),
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
        ({"lr_scheduler": "polynomial", "lr_warmup_steps": 1000, "max_train_steps": 5000},
         ("polynomial", 4000, 1000)),
        ({"lr_scheduler": "linear", "lr_warmup_steps": 1000, "max_train_steps": 5000, "lr_power": 2},
         ("linear", 4000, 1000)),
        ({"lr_scheduler": "sine", "lr_warmup_steps": 1000}, ("sine", None, 500)),
        ({"lr_scheduler": "piecewise_constant", "lr_warmup_steps": 9, "max_train_steps": 50}, ("cosine", 41, 9)),
        ({"lr_scheduler": "cosine", "lr_warmup_steps": 0}, ("cosine", 1000, 500)),
    ],
)  # fmt: skip
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
    assert (optimizer.name, optimizer.beta1, optimizer.beta2, optimizer.weight_decay) == (
        "adamw_bf16",
        0.8,
        0.999,
        0.02,
    )
    assert train.resources.max_checkpoints == 1000


def test_the_prompt_library_is_written_out(tmp_path: Path) -> None:
    library = json.loads((QUICKSTART / "user_prompt_library.json").read_text())
    (tmp_path / "user_prompt_library.json").write_text(json.dumps({**library, "old town": {"prompt": "a town"}}))
    config, _ = converted(tmp_path, {"user_prompt_library": "config/user_prompt_library.json"})
    expected = {"validation": CONFIG["validation_prompt"], **library, "old_town": "a town"}
    assert config.sample.prompts == expected


# ---- what is made lies outside of what is read


@pytest.mark.parametrize(
    ("output", "source", "expected"),
    [  # below the folder of the test; `config` is where config.json is
        ("out", "data", "out"),
        ("data/out", "data", "config/.sana"),
        ("data/", "data", "config/.sana"),
        ("data/../out", "data", "data/../out"),
        ("linked/out", "data", "config/.sana"),  # a link to data
        ("database", "data", "database"),
        ("config/out", ".", "..-sana"),  # the data set holds config.json too
        ("", "data", ".sana"),
    ],
)
def test_root_and_work_dir_are_in_no_data_set(tmp_path: Path, output: str, source: str, expected: str) -> None:
    place = tmp_path / "place"
    (place / "config").mkdir(parents=True)
    (place / "data").mkdir()
    (place / "linked").symlink_to(place / "data")
    entries = [video(instance_data_dir=f"{place}/{source}".removesuffix("/."))]
    config, conversion = converted(place / "config", {"output_dir": output and f"{place}/{output}"}, entries)
    if expected == "..-sana":
        expected = f"{place}-sana"
    elif output:
        expected = f"{place}/{expected}"
    assert (config.root, config.work_dir) == (f"{expected}/store", f"{expected}/work")
    assert all(named in accounted(conversion) for named in ["output_dir"])
    text = " ".join((place / "config/out.yaml").read_text().replace("\n# ", " ").split())
    moved = f"not {place}/{output.rstrip('/')}, which is in a data set" in text
    assert conversion.notes == ([f"root is in {expected}: output_dir is in a data set"] if moved else [])
    assert moved == (output in ("data/out", "data/", "linked/out", "config/out"))


@pytest.mark.parametrize(
    ("output", "root", "work_dir"),
    [("s3://b/videos/out", ".sana/store", ".sana/work"), ("s3://b/videos2", "s3://b/videos2/store", ".sana/work")],
)
def test_a_prefix_of_a_bucket_is_compared_by_its_text(tmp_path: Path, output: str, root: str, work_dir: str) -> None:
    entry = video(type="aws", instance_data_dir=None, aws_bucket_name="b", aws_data_prefix="videos/")
    config, _ = converted(tmp_path, {"output_dir": output}, [entry])
    assert (config.root.removeprefix(f"{tmp_path}/"), config.work_dir) == (root, f"{tmp_path}/{work_dir}")


@pytest.mark.parametrize(
    ("evaluated", "disabled", "fraction"),
    [("data", True, 0.05), (".", True, 0.05), ("data/held", False, 0), ("other", False, 0)],
)
def test_an_eval_data_set_of_what_is_trained_on_is_left_out(
    tmp_path: Path, evaluated: str, disabled: bool, fraction: float
) -> None:
    entries = [
        video(instance_data_dir=f"{tmp_path}/data"),
        video("ev", dataset_type="eval", instance_data_dir=f"{tmp_path}/{evaluated}"),
    ]
    config, conversion = converted(tmp_path, backends=entries)
    assert conversion.notes == (["ev is left out: it has what disney trains on"] if disabled else [])
    _, held = config.download.datasets
    assert (held.role, held.disabled, config.bucket.eval_fraction) == ("eval", disabled, fraction)
    assert ("its folder is that of disney, which is trained on" in (tmp_path / "out.yaml").read_text()) == disabled


def test_captions_that_nothing_gives_are_asked_for_at_the_end(tmp_path: Path) -> None:
    _, conversion = converted(tmp_path, backends=[video(caption_strategy="filename"), video("b")])
    assert conversion.notes == ["disney needs captions: no caption_strategy filename here"]


def test_every_copy_of_a_video_is_trained_on_as_there(tmp_path: Path) -> None:
    assert converted(tmp_path)[0].probe.duplicates == "keep"


@pytest.mark.parametrize(
    ("changes", "conditions"),
    [
        ({"video": {"num_frames": 81, "is_i2v": True}}, [("image_to_video", 1.0)]),
        ({"is_i2v": "true"}, [("image_to_video", 1.0)]),
        ({"video": {"num_frames": 81, "is_i2v": False}}, None),
        ({"video": {"num_frames": 1, "is_i2v": True}}, None),
        ({"video": {"is_i2v": True}, "dataset_type": "eval", "instance_data_dir": "kept"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_is_i2v_gives_the_first_frame_of_its_data_set_alone(
    tmp_path: Path, changes: dict, conditions: list[tuple[str, float]] | None
) -> None:
    entry = video("moving", **changes)
    config, conversion = converted(tmp_path, backends=[video("other", instance_data_dir="other"), entry])
    other, moving = config.download.datasets
    found = moving.conditions
    assert other.conditions is None and config.train.conditions == ()
    assert (found if found is None else [(one.label, one.probability) for one in found]) == conditions
    assert all_keys(entry, "moving.") - accounted(conversion) == set()
    assert not conversion.unknown
