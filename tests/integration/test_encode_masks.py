"""Masks as tensors: cut and reduced as their clips are, rejected with a reason, pooled; the windows that are left."""

import io
import shutil
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sana.bucket import Bucket
from sana.data.shards.shard import Location, read_tensor
from sana.data.tables import read_table
from sana.data.video.masks import read_masks, to_latent_size
from sana.data.video.video import ClipRejected
from sana.errors import RejectedError
from sana.maintenance.object_graph import read_object_graph
from sana.pipeline.costs import _COSTS
from sana.pipeline.plan import plan
from sana.workers.encode_masks import _encode_group
from tests.pipeline_runs import Outcome, Place, inline_workers, new_place, run_stages
from tests.video_files import make_video

pytestmark = pytest.mark.timeout(120)

WINDOW: Mapping[str, Any] = {
    "digest": "d", "bucket": "5x32x48", "start_frame": 0, "window_fps": 0.0, "crop_left": 0.0, "crop_top": 0.0,
    "crop_width": 96.0, "crop_height": 64.0, "treatment": "", "width": 96, "height": 64, "num_frames": 9, "fps": 16.0,
    "duration_s": 9 / 16, "inverted": False, "keep_empty": False,
}  # fmt: skip


def film(path: Path, pictures: NDArray[np.uint8], *, fps: int = 16) -> Path:
    """Write uint8 [F, H, W] as a lossless video in full range."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = pictures.shape[2], pictures.shape[1], "gray"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="gray")))
        container.mux(stream.encode())
    return path


def png(path: Path, levels: NDArray[np.uint8], **options: Any) -> Path:
    Image.fromarray(levels).save(path, **options)
    return path


def half(height: int = 64, width: int = 96) -> NDArray[np.uint8]:
    """White on the left, black on the right."""
    levels = np.zeros((height, width), np.uint8)
    levels[:, : width // 2] = 255
    return levels


def one(path: Path, **window: Any) -> NDArray[np.float32]:
    (weights,) = read_masks(path, [{**WINDOW, **window}])
    assert not isinstance(weights, ClipRejected), weights
    return weights


def test_latent_frames_are_the_means_of_the_frames_that_the_vae_puts_into_them() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (9, 16, 24), dtype=np.uint8)
    weights = to_latent_size(levels)
    plain = np.clip((levels.astype(np.float64) - 8) / 239, 0, 1)
    assert weights.shape == (1, 3, 2, 3) and weights.dtype == np.float32
    for frame, of in enumerate(([0], [1, 2, 3, 4], [5, 6, 7, 8])):
        for y in range(2):
            for x in range(3):
                block = plain[of, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8]
                assert weights[0, frame, y, x] == pytest.approx(block.mean(), abs=1e-6)


def test_a_still_picture_holds_for_all_frames(tmp_path: Path) -> None:
    weights = one(png(tmp_path / "m.png", half()))
    assert weights.shape == (1, 2, 4, 6)
    assert (weights[..., :3] > 0.95).all() and (weights[..., 3:] < 0.05).all()
    assert np.array_equal(weights[:, 0], weights[:, 1])
    inverted = one(tmp_path / "m.png", inverted=True)
    assert np.allclose(inverted, 1 - weights)


PICTURES = {
    "jpeg": lambda path: Image.fromarray(half()).save(path, quality=95),
    "webp": lambda path: Image.fromarray(half()).convert("RGB").save(path, lossless=True),
    "bilevel": lambda path: Image.fromarray(half()).convert("1").save(path),
    "palette": lambda path: Image.fromarray(half()).convert("RGB").convert("P").save(path),
    "16 bits": lambda path: Image.fromarray(half().astype(np.uint16) * 257).save(path),
    "rgb": lambda path: Image.fromarray(half()).convert("RGB").save(path),
    "alpha": lambda path: Image.merge("LA", (Image.new("L", (96, 64), 255), Image.fromarray(half()))).save(path),
    "tiff": lambda path: Image.fromarray(half()).save(path),
    "turned by exif": lambda path: Image.fromarray(np.rot90(half(), 1).copy()).save(path, exif=_turned()),
    "half the size": lambda path: Image.fromarray(half(32, 48)).save(path),
    "a hair off the aspect": lambda path: Image.fromarray(half(33, 48)).save(path),
}  # fmt: skip


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    return exif


@pytest.mark.parametrize("kind", PICTURES)
def test_every_kind_of_picture_gives_the_same_weights(tmp_path: Path, kind: str) -> None:
    ending = {"jpeg": "jpg", "webp": "webp", "tiff": "tif", "turned by exif": "jpg"}.get(kind, "png")
    path = tmp_path / f"m.{ending}"
    PICTURES[kind](path)
    expected = one(png(tmp_path / "plain.png", half()))
    assert np.abs(one(path) - expected).max() < 0.08


def test_a_video_is_read_on_the_windows_own_frames_and_cut_by_its_own_box(tmp_path: Path) -> None:
    pictures = np.zeros((13, 64, 96), np.uint8)
    for frame in range(13):
        pictures[frame, :, : 8 * (frame % 12)] = 255  # an edge that moves by 8 pixels a frame
    path = film(tmp_path / "m.mkv", pictures)
    window = {"num_frames": 13, "bucket": "5x64x96", "crop_width": 96.0, "crop_height": 64.0}
    of_start = {start: one(path, start_frame=start, **window) for start in (0, 3, 8)}
    for start, weights in of_start.items():
        assert np.allclose(weights, to_latent_size(pictures[start : start + 5]), atol=1e-6), start
    several = list(read_masks(path, [{**WINDOW, **window, "start_frame": start} for start in of_start]))
    assert all(np.array_equal(weights, of_start[start]) for weights, start in zip(several, of_start, strict=True))
    cut = one(
        path,
        start_frame=8,
        num_frames=13,
        bucket="5x32x48",
        crop_left=48.0,
        crop_top=16.0,
        crop_width=48.0,
        crop_height=32.0,
    )
    assert np.allclose(cut, to_latent_size(pictures[8:13, 16:48, 48:96]), atol=1e-6)
    small = film(tmp_path / "s.mkv", np.ascontiguousarray(pictures[:, ::2, ::2]))
    assert np.abs(one(small, start_frame=3, **window) - of_start[3]).max() < 0.1, "at half the clip's size"


def test_at_a_target_rate_a_mask_may_have_its_own(tmp_path: Path) -> None:
    pictures = np.zeros((6, 64, 96), np.uint8)
    pictures[3:] = 255
    path = film(tmp_path / "m.mkv", pictures, fps=4)  # of a clip of 24 frames at 16 fps: white from 0.75 s on
    weights = one(path, window_fps=8.0, num_frames=24, duration_s=1.5, bucket="9x32x48")
    assert np.allclose(weights[0, :, 0, 0], [0, 0, 0.75])  # times 5/8 s ... 8/8 s: one frame black, three white


FAULTS: dict[str, tuple[Any, dict[str, Any], str, str]] = {
    "longer": (
        lambda path: film(path, np.full((10, 64, 96), 255, np.uint8)), {}, "mask_length", "has 10 frames and its clip 9"
    ),
    "shorter in time": (
        lambda path: film(path, np.full((6, 64, 96), 255, np.uint8), fps=8),
        {"window_fps": 8.0, "num_frames": 24, "duration_s": 1.5},
        "mask_length",
        "lasts 0.750 s and its clip 1.500 s",
    ),
    "another shape": (lambda path: png(path, half(96, 96)), {}, "mask_size", "is 96x96 pixels"),
    "another shape of a video": (lambda path: film(path, np.zeros((9, 96, 64), np.uint8)), {}, "mask_size", "64x96"),
    "black": (lambda path: png(path, np.full((64, 96), 5, np.uint8)), {}, "mask_empty", "black in all"),
    "white and inverted": (
        lambda path: png(path, np.full((64, 96), 250, np.uint8)), {"inverted": True}, "mask_empty", "white"
    ),
    "no bytes": (lambda path: path.write_bytes(b""), {}, "empty", "0 bytes"),
    "text": (lambda path: path.write_bytes(b"not a mask"), {}, "no_video", "it is text"),
    "a picture that is cut": (lambda path: _cut(path, "PNG"), {}, "truncated", "ends early, at byte"),
    "a jpeg that is cut": (lambda path: _cut(path, "JPEG"), {}, "truncated", "ends early, at byte"),
    "a moving webp": (lambda path: _moving(path, "WEBP"), {}, "no_video", "moving WEBP of 3 frames"),
    "floats": (
        lambda path: Image.fromarray(np.ones((64, 96), np.float32)).save(path, format="TIFF"), {}, "color", "floats"
    ),
    "a moving gif of another length": (lambda path: _moving(path, "GIF"), {}, "mask_length", "has 3 frames"),
}  # fmt: skip


def _cut(path: Path, kind: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 96), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(noise).save(data, format=kind)
    path.write_bytes(data.getvalue()[: len(data.getvalue()) // 2])


def _moving(path: Path, kind: str) -> None:
    first, *rest = [Image.fromarray(np.full((64, 96), level, np.uint8)) for level in (0, 128, 255)]
    first.save(path, format=kind, save_all=True, append_images=rest, duration=100)


@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_used_is_rejected_with_a_reason(tmp_path: Path, name: str) -> None:
    make, window, reason, detail = FAULTS[name]
    path = tmp_path / ("m.mkv" if "video" in name or name in ("longer", "shorter in time") else "m.png")
    make(path)
    (found,) = read_masks(path, [{**WINDOW, **window}])
    assert isinstance(found, ClipRejected) and found.reason == reason and detail in found.detail, found


def test_an_empty_mask_may_be_kept(tmp_path: Path) -> None:
    assert not one(png(tmp_path / "m.png", np.zeros((64, 96), np.uint8)), keep_empty=True).any()


# ---- the stage


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Ten clips of two sources each; masks of all but one, one of another shape."""
    place = new_place(tmp_path_factory.mktemp("masks"), Path("none"))
    shutil.rmtree(place.clips)
    place.clips.mkdir()
    for number in range(10):
        make_video(place.clips / f"c{number}.mp4", num_frames=17, gop=number + 1)
        (place.clips / f"c{number}.txt").write_text(f"clip {number}")
        if number != 3:
            png(place.clips / f"c{number}.mask.png", half(64, 64 if number == 4 else 96))
    return place


SHAPES = ("bucket.buckets=[5x32x48,9x32x64]", "bucket.holdout=[]", "download.datasets.0.source_pattern=null")
MASKS = ("download.datasets.0.masks={suffix: .mask}", "train.masked_loss={}", *SHAPES)


@pytest.fixture(scope="module")
def made(place: Place) -> Iterator[Outcome]:
    with inline_workers():
        yield run_stages(place.context(*MASKS, "bucket.eval_fraction=0.2"), last="encode_masks")


def rows(place: Place, outcome: Outcome, name: str, stage: str = "encode_masks") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read_table(place.context().store, outcome[stage], f"{name}.parquet").to_pylist()
    return found


def test_every_sample_that_is_left_has_a_mask_and_every_other_a_reason(place: Place, made: Outcome) -> None:
    assert made.ran == ["download", "probe", "bucket", "encode_masks"]
    windows, index, rejects = (rows(place, made, name) for name in ("clips", "index", "rejects"))
    assert [row["sample_id"] for row in windows] == [row["sample_id"] for row in index] and len(index) == 8
    assert {(row["path"], row["stage"], row["reason"]) for row in rejects} == {
        ("c3.mp4", "encode_masks", "no_mask"),
        ("c4.mp4", "encode_masks", "mask_size"),
    }
    assert any("c4.mask.png: the mask is 64x64" in row["detail"] for row in rejects)
    counts = made["encode_masks"].counts
    assert (counts.num_in, counts.num_out, counts.num_rejected) == (10, 8, 2)
    for row in index:
        tensor = read_tensor(place.context().store, Location.of(row))
        frames = (int(row["bucket"].split("x")[0]) + 3) // 4
        assert (
            row["dtype"] == "fp16"
            and tensor.shape[:2] == (1, frames)
            and row["covered"] == pytest.approx(0.5, abs=0.02)
        )
    unfiltered = rows(place, made, "clips", "bucket")
    assert windows == [row for row in unfiltered if row["path"] not in ("c3.mp4", "c4.mp4")]


def test_nothing_is_encoded_twice_and_policies_are_the_stages_alone(place: Place, made: Outcome) -> None:
    context = place.context(*MASKS, "bucket.eval_fraction=0.2")
    assert [one.state for one in plan(context, last="encode_masks")] == ["cached"] * 4
    whole = (*MASKS[1:], "download.datasets.0.masks={suffix: .mask, missing: whole}", "bucket.eval_fraction=0.2")
    with inline_workers():
        outcome = run_stages(place.context(*whole), last="encode_masks")
    assert outcome.ran == ["encode_masks"]
    assert dict(outcome["encode_masks"].counts.extra) == {"encoded": 1, "whole": 1}
    (lone,) = [row for row in rows(place, outcome, "index") if row["covered"] == 1.0]
    assert read_tensor(place.context().store, Location.of(lone)).eq(1).all()
    assert outcome["encode_masks"].content["windows"] != made["encode_masks"].content["windows"]


def test_windows_of_several_clips_that_share_a_mask_are_read_once_and_in_order(place: Place, tmp_path: Path) -> None:
    shared = new_place(tmp_path, Path("none"))
    shutil.rmtree(shared.clips)
    shutil.copytree(place.clips, shared.clips)
    levels = np.zeros((17, 64, 96), np.uint8)
    for frame in range(17):
        levels[frame, :, : 4 * frame] = 255
    mask = film(tmp_path / "mask.mkv", levels)
    for number in range(10):
        (shared.clips / f"c{number}.mask.png").unlink(missing_ok=True)
        shutil.copy(mask, shared.clips / f"c{number}.mask.mkv")
    windows = (
        "bucket.buckets=[5x32x48]",
        "bucket.window=stride",
        "bucket.windows_per_clip=9",
        "bucket.window_stride=2",
    )
    policies = "download.datasets.0.masks={suffix: .mask, empty: keep}"
    with inline_workers():
        outcome = run_stages(
            shared.context(*MASKS, policies, *windows, "bucket.eval_fraction=0.2"), last="encode_masks"
        )
    index = rows(shared, outcome, "index")
    assert len(index) == 70 and outcome["encode_masks"].counts.extra["encoded"] == 7
    for row in index:
        start = int(row["sample_id"].rpartition("-")[2])
        found = read_tensor(shared.context().store, Location.of(row)).float().numpy()
        (alone,) = read_masks(
            shared.clips / "c0.mask.mkv", [{**WINDOW, "start_frame": start, "num_frames": 17, "keep_empty": True}]
        )
        assert np.abs(found - alone).max() < 1e-3, start


def test_the_plan_knows_the_bytes_and_maintenance_the_shards(place: Place, made: Outcome) -> None:
    store = place.context().store
    graph = read_object_graph(store)
    shards = {row["shard"] for row in rows(place, made, "index")}
    assert shards and all(graph.references[shard] for shard in shards) and not graph.problems
    counts = SimpleNamespace(samples=lambda: {Bucket(81, 480, 832): (6, 4)})
    cost = _COSTS["encode_masks"](counts, None, SimpleNamespace(name="encode_masks", work=(5, 10, "samples")))  # type: ignore[arg-type]
    assert cost.written_bytes == 5 * 21 * 60 * 104 * 2


def test_a_mask_that_killed_two_workers_is_rejected_unopened() -> None:
    row = {**WINDOW, "mask_digest": "d", "mask_path": "m.png", "dataset": "x", "pass_key": "p"}
    ((_, found),) = _encode_group([row], sources={}, journal=None, to_reject=frozenset({"d"}))  # type: ignore[arg-type]
    assert isinstance(found, ClipRejected) and found.reason == "killed_worker" and "m.png" in found.detail


def test_without_masked_loss_there_is_no_stage_and_latents_keep_their_recipe(place: Place, made: Outcome) -> None:
    plain = place.context(MASKS[0], *SHAPES, "bucket.eval_fraction=0.2")
    assert "encode_masks" not in {one.name for one in plan(plain, last="bucket")}
    assert [one.state for one in plan(plain, last="bucket")] == ["cached"] * 3


def test_a_split_that_masks_leave_empty_is_told(place: Place, tmp_path: Path) -> None:
    lone = new_place(tmp_path, Path("none"))
    shutil.rmtree(lone.clips)
    shutil.copytree(place.clips, lone.clips)
    held_out = next(row["path"] for row in _windows(lone) if row["split"] == "eval")
    (lone.clips / held_out).with_suffix(".mask.png").unlink(missing_ok=True)
    with inline_workers(), pytest.raises(RejectedError, match="no sample of the eval split is left"):
        run_stages(lone.context(*MASKS, "bucket.eval_fraction=0.01"), last="encode_masks")


def _windows(place: Place) -> list[dict[str, Any]]:
    with inline_workers():
        return rows(
            place, run_stages(place.context(*MASKS, "bucket.eval_fraction=0.01"), last="bucket"), "clips", "bucket"
        )
