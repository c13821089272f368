"""Still pictures as clips of one frame: listed where a bucket takes them, probed, decoded, and trained on at a rate."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms

from sana.config.load import load_config
from sana.data.loading.loader import load_samples
from sana.data.shards.shard import Location, read_tensor
from sana.data.sources.source_check import check_sources
from sana.data.tables import read_table
from sana.data.video.frames import read_window
from sana.data.video.still import probe_still, read_picture
from sana.data.video.video import ClipRejected, crop_and_resize, to_pixels
from sana.errors import ConfigError
from sana.metrics import parse_rows
from sana.model.vae import encode_latents, load_vae
from sana.pipeline.plan import plan
from sana.training.batch import cursor_of
from sana.training.checkpoints.checkpoint import read_checkpoint, read_metrics
from tests.downloads import DEMO, FinishedDownload, context, csv_of
from tests.packed_files import tar_of
from tests.pipeline_runs import Outcome, Place, inline_workers, new_place, run_stages
from tests.source_files import make_files

pytestmark = pytest.mark.timeout(120)

STILLS = {"num_frames": 1}  # bucket rules of one frame
FILES = {"a.jpg": "1", "a.txt": "one", "s/b.PNG": "2", "s/b.txt": "two", "c.mp4": "3", "c.txt": "three", "d.webp": "4"}
# name -> (settings of the data set, files, clips, unused)
LISTED: dict[str, tuple[dict[str, Any], dict[str, Any], set[str], set[str]]] = {
    "buckets of many frames": ({}, FILES, {"c.mp4"}, {"a.jpg", "a.txt", "s/b.PNG", "s/b.txt", "d.webp"}),
    "buckets of one frame": ({"bucket": STILLS}, FILES, {"a.jpg", "s/b.PNG", "c.mp4"}, set()),
    "buckets of both, unless asked for": (
        {"bucket": {"buckets": ["1x64x96", "17x64x96"]}}, FILES, {"c.mp4"},
        {"a.jpg", "a.txt", "s/b.PNG", "s/b.txt", "d.webp"},
    ),
    "buckets of both, asked for": (
        {"bucket": {"buckets": ["1x64x96", "17x64x96"]}, "images": "read"}, FILES, {"a.jpg", "s/b.PNG", "c.mp4"}, set()
    ),
    "not wanted": (
        {"bucket": STILLS, "images": "ignore"}, FILES, {"c.mp4"}, {"a.jpg", "a.txt", "s/b.PNG", "s/b.txt", "d.webp"}
    ),
    "pictures alone, named by a table": (
        {"bucket": STILLS},
        {"a.jpg": "1", "b.tiff": "2", "metadata.csv": csv_of([{"file_name": "a.jpg", "text": "one"}])},
        {"a.jpg"}, set(),
    ),
    "beside their masks": (
        {"bucket": STILLS, "masks": {"suffix": ".mask"}},
        {"a.jpg": "1", "a.txt": "one", "a.mask.png": "m"}, {"a.jpg"}, set(),
    ),
    "packed": (
        {"bucket": STILLS},
        {"x.tar": tar_of({"1.jpg": b"1", "1.txt": b"one"}), "y.tar": tar_of({"1.jpg": b"2", "1.txt": b"two"})},
        {"1.jpg", "y/1.jpg"}, set(),
    ),
    "packed with captions in JSON": (
        {"bucket": STILLS},
        {"x.tar": tar_of({"1.jpg": b"1", "1.json": b'{"text": "one"}', "2.png": b"2", "2.json": b'{"text": "two"}'})},
        {"1.jpg", "2.png"}, set(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LISTED)
def test_pictures_are_clips_where_a_bucket_takes_them(tmp_path: Path, name: str) -> None:
    settings, files, clips, unused = LISTED[name]
    source = make_files(tmp_path / "source", files)
    run = context(tmp_path, {"source": str(source), **settings})
    problems, notes = check_sources(run.config, work_dir=tmp_path / "work")
    assert not problems
    assert any("still pictures are clips of one frame where" in note for note in notes) == bool(unused)
    done = FinishedDownload(run)
    assert {clip["path"] for clip in done.clips} == clips
    left = set(read_table(run.store, done.artifact, "unused_files.parquet").column("path").to_pylist())
    assert left == unused
    assert {reason for reason, _ in done.rejected.values()} <= {"no_caption"}


def test_a_folder_of_pictures_alone_says_what_would_use_it(tmp_path: Path) -> None:
    source = make_files(tmp_path / "source", {"a.jpg": "1", "a.txt": "one", "b.png": "2"})
    (problem,), _ = check_sources(context(tmp_path, {"source": str(source)}).config, work_dir=tmp_path / "work")
    assert "holds no video" in str(
        problem
    ) and "2 still pictures are clips of one frame where bucket.num_frames is 1" in (str(problem))


@pytest.mark.parametrize(
    ("overrides", "needs"),
    [
        (["download.datasets.0.images=read"], "none of its buckets has one frame"),
        (["train.image_every=4"], "no data set that is trained on has one of one frame"),
        (["train.image_every=4", "bucket.buckets=[1x64x96]"], "has one of more than one frame"),
        (["train.image_every=1"], "must be at least 2"),
    ],
)
def test_what_no_bucket_takes_is_refused_at_load(overrides: list[str], needs: str) -> None:
    with pytest.raises(ConfigError, match=needs):
        load_config(DEMO, overrides)


# ---- what becomes of a picture


def scene(height: int = 64, width: int = 96) -> NDArray[np.uint8]:
    """Red, green, blue and gray quarters: uint8 [H, W, 3]."""
    picture = np.full((height, width, 3), 128, np.uint8)
    picture[: height // 2, : width // 2] = (200, 30, 30)
    picture[: height // 2, width // 2 :] = (30, 200, 30)
    picture[height // 2 :, : width // 2] = (30, 30, 200)
    return picture


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _turned(orientation: int, path: Path) -> None:
    undo = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 2: Image.Transpose.FLIP_LEFT_RIGHT,
            5: Image.Transpose.TRANSPOSE}  # fmt: skip
    Image.fromarray(scene()).transpose(undo[orientation]).save(path, exif=_exif(orientation))


def _with_alpha(path: Path) -> None:
    alpha = np.full((64, 96), 255, np.uint8)
    alpha[32:, 48:] = 0
    picture = scene()
    picture[32:, 48:] = 0  # what is under there must not show
    Image.fromarray(np.dstack([picture, alpha])).save(path)


def _profiled(path: Path) -> None:
    """The scene in a space whose red and green are those of sRGB the other way round."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace(b"rXYZ", b"tmp!").replace(b"gXYZ", b"rXYZ").replace(b"tmp!", b"gXYZ")
    Image.fromarray(scene()[..., [1, 0, 2]]).save(path, icc_profile=profile)


KINDS: dict[str, tuple[str, Any]] = {
    "png": ("png", lambda path: Image.fromarray(scene()).save(path)),
    "jpeg": ("jpg", lambda path: Image.fromarray(scene()).save(path, quality=100, subsampling=0)),
    "webp": ("webp", lambda path: Image.fromarray(scene()).save(path, lossless=True)),
    "bmp": ("bmp", lambda path: Image.fromarray(scene()).save(path)),
    "tiff": ("tif", lambda path: Image.fromarray(scene()).save(path)),
    "avif": ("avif", lambda path: Image.fromarray(scene()).save(path, quality=100, subsampling="4:4:4")),
    "palette": ("png", lambda path: Image.fromarray(scene()).convert("P", palette=Image.Palette.ADAPTIVE).save(path)),
    "cmyk": ("jpg", lambda path: Image.fromarray(scene()).convert("CMYK").save(path, quality=100, subsampling=0)),
    "upside down": ("jpg", lambda path: _turned(3, path)),
    "turned": ("png", lambda path: _turned(6, path)),
    "mirrored": ("png", lambda path: _turned(2, path)),
    "transposed": ("png", lambda path: _turned(5, path)),
    "a profile of its own": ("png", _profiled),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture_is_the_same_scene(tmp_path: Path, kind: str) -> None:
    ending, make = KINDS[kind]
    path = tmp_path / f"p.{ending}"
    make(path)
    info = probe_still(path)
    assert (info.width, info.height, info.num_frames, info.fps, info.duration_s) == (96, 64, 1, 0.0, 0.0)
    window = {"bucket": "1x32x48", "start_frame": 0, "window_fps": 16.0, "treatment": "",
              "crop_left": 0.0, "crop_top": 0.0, "crop_width": 96.0, "crop_height": 64.0}  # fmt: skip
    frames = read_window(path, window)
    expected = crop_and_resize(scene(), 1.0, 32, 48, (0.0, 0.0, 96.0, 64.0))
    assert frames.shape == (1, 32, 48, 3)
    worst = np.abs(frames[0].astype(int) - expected).reshape(-1, 3).mean(axis=0).max()
    assert worst < 8, f"{kind}: {worst:.1f}"


def test_what_is_transparent_is_white_and_16_bits_are_8(tmp_path: Path) -> None:
    _with_alpha(tmp_path / "a.png")
    seen = read_picture(tmp_path / "a.png")
    assert (seen[40:, 60:] == 255).all() and np.array_equal(seen[:32], scene()[:32])
    levels = np.linspace(0, 65535, 64 * 96).astype(np.uint16).reshape(64, 96)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    gray = read_picture(tmp_path / "deep.png")
    assert np.abs(gray[..., 0].astype(float) - levels / 257).max() <= 0.5 and (gray[..., 0] == gray[..., 2]).all()


def _bytes(kind: str, *, cut: float = 1.0, frames: int = 1) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (frames, 64, 96, 3), dtype=np.uint8)
    first, *rest = [Image.fromarray(one) for one in noise]
    out = io.BytesIO()
    first.save(out, format=kind, **({"save_all": True, "append_images": rest} if rest else {}))
    return out.getvalue()[: int(len(out.getvalue()) * cut)]


FAULTS = {
    "no bytes": (b"", "empty", "0 bytes"),
    "text": (b"not a picture", "unreadable", "it is text, not a picture"),
    "a page": (b"<html><body>404", "unreadable", "HTML page"),
    "a cut jpeg": (_bytes("JPEG", cut=0.5), "truncated", "ends early"),
    "a cut png": (_bytes("PNG", cut=0.5), "truncated", "ends early"),
    "a cut webp": (_bytes("WEBP", cut=0.5), "unreadable", "cannot be decoded"),
    "a moving webp": (_bytes("WEBP", frames=3), "no_video", "moving WEBP of 3 frames"),
    "a moving png": (_bytes("PNG", frames=2), "no_video", "moving PNG of 2 frames"),
    "pages": (_bytes("TIFF", frames=2), "no_video", "2 pages"),
    "only a head": (b"\x89PNG\r\n\x1a\n" + bytes(40), "unreadable", "cannot be decoded"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_no_still_picture_is_rejected_by_name(tmp_path: Path, name: str) -> None:
    data, reason, detail = FAULTS[name]
    (tmp_path / "p.png").write_bytes(data)
    with pytest.raises(ClipRejected) as caught:
        probe_still(tmp_path / "p.png")
    assert (caught.value.reason, detail in caught.value.detail) == (reason, True), caught.value


# ---- a run with both


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Place:
    place = new_place(tmp_path_factory.mktemp("images"), tiny_model)
    stills = place.folder / "stills"
    stills.mkdir()
    for number in range(8):
        picture = scene()
        picture[:8, :8] = 30 * number
        Image.fromarray(picture).save(stills / f"p{number}.png")
        (stills / f"p{number}.txt").write_text(f"four quarters, {number}")
    Image.fromarray(scene()).save(stills / "fake.mp4", format="JPEG")
    (stills / "fake.txt").write_text("a picture with the name of a video")
    Image.fromarray(scene()).save(stills / "fake.jpg", format="JPEG")  # the same content with its own name
    return place


def overrides(place: Place, *more: str) -> tuple[str, ...]:
    sets = (
        f"download.datasets=[{{id: demo, source: {place.clips}, source_pattern: '^([a-z]+)-'}}, "
        f"{{id: stills, source: {place.folder / 'stills'}, bucket: {{buckets: [1x32x48]}}}}]"
    )
    return (
        sets,
        "train.global_batch_size=2",
        "train.resources.micro_batch_size=1",
        "train.resources.log_every=1",
        "bucket.holdout=[bunny, p1.png]",
        *more,
    )


@pytest.fixture(scope="module")
def made(place: Place) -> Outcome:
    with inline_workers():
        return run_stages(place.context(*overrides(place, "train.image_every=3")), last="evaluate")


def test_pictures_become_latents_of_one_frame(place: Place, made: Outcome) -> None:
    store = place.context().store
    windows = {row["sample_id"]: row for row in read_table(store, made["bucket"], "clips.parquet").to_pylist()}
    stills = [row for row in windows.values() if row["dataset"] == "stills"]
    assert {row["path"] for row in stills} == {f"p{number}.png" for number in range(8)} | {"fake.jpg"}
    assert {(row["bucket"], row["start_frame"], row["treatment"]) for row in stills} == {("1x32x48", 0, "")}
    assert {row["split"] for row in stills} == {"train", "eval"}
    rejects = read_table(store, made["probe"], "rejects.parquet").to_pylist()
    assert ("fake.mp4", "no_video") in {(row["path"], row["reason"]) for row in rejects}
    index = read_table(store, made["encode_latents"], "index.parquet").to_pylist()
    mine = [row for row in index if row["dataset"] == "stills"]
    assert len(mine) == 9 and all(row["shape"] == [16, 1, 4, 6] for row in mine)

    vae = load_vae(str(place.model), revision=None, precision="tf32", device=torch.device("cpu"))
    row = next(row for row in mine if windows[row["sample_id"]]["path"] == "p3.png")
    frames = read_window(place.folder / "stills" / "p3.png", windows[row["sample_id"]])
    expected = encode_latents(vae, torch.from_numpy(to_pixels(frames))[None], precision="tf32")[0].half()
    assert torch.equal(read_tensor(store, Location.of(row)), expected)


def test_every_third_step_is_a_batch_of_pictures(place: Place, made: Outcome) -> None:
    ctx = place.context(*overrides(place, "train.image_every=3"))
    samples = load_samples(ctx.store, made["encode_latents"], made["encode_captions"], "train")
    cursor = cursor_of(ctx.config.train, samples)
    kinds = [
        "".join("vi"[samples.buckets[code].startswith("1x")] for code in samples.bucket_codes[cursor.batch(step)])
        for step in range(9)
    ]
    assert kinds == ["vv", "vv", "ii"] * 3
    trained = made["train"].facts
    checkpoint = read_checkpoint(ctx.store, trained["trajectory"], 6)
    rows = [row for row in parse_rows(read_metrics(ctx.store, checkpoint)) if "throughput/tokens_per_s" in row]
    rate = [row["throughput/tokens_per_s"] * row["time/step_s"] / 2 for row in rows]
    assert [round(tokens) for tokens in rate][2] == 6 and min(rate[:2]) > 6, "tokens of a sample, by step"


def test_pictures_may_have_a_template_of_their_own(place: Place, made: Outcome) -> None:
    with inline_workers():
        other = run_stages(
            place.context(*overrides(place, "train.image_every=3", "encode_captions.image_template=image")),
            last="encode_captions",
        )
    assert other.ran == ["encode_captions"]
    store = place.context().store
    windows = read_table(store, made["bucket"], "clips.parquet").to_pylist()
    stills = {row["clip_id"] for row in windows if row["bucket"].startswith("1x")}
    rows = read_table(store, other["encode_captions"], "index.parquet").to_pylist()
    templates = {(row["name"] in stills, row["template"]) for row in rows if row["role"] in ("train", "eval")}
    assert templates == {(True, "image"), (False, "video")}
    before = read_table(store, made["encode_captions"], "index.parquet").to_pylist()
    key = lambda row: (row["role"], row["name"], row["position"])  # noqa: E731
    changed = {key(a)[1] for a, b in zip(sorted(before, key=key), sorted(rows, key=key), strict=True) if a != b}
    assert changed == stills


def test_without_the_rate_the_run_is_another_and_the_data_the_same(place: Place, made: Outcome) -> None:
    states = {one.name: one.state for one in plan(place.context(*overrides(place)), last="train")}
    assert states.pop("train") == "stale" and set(states.values()) == {"cached"}
