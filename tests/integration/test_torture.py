"""The torture set through download, probe and decoding: each file's expected row or reason of rejection."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sana.data.schemas import Reason
from sana.data.tables import read_table
from sana.data.video import probe
from sana.data.video.frames import read_frames
from sana.data.video.video import opened
from tests.pipeline_runs import Place, run_stages
from tests.torture_files import FPS, HEIGHT, NUM_FRAMES, WIDTH, decode_by_ffmpeg, make_torture_set
from tests.video_files import number, psnr

pytestmark = pytest.mark.timeout(300)

PLAIN: dict[str, Any] = {
    "width": WIDTH, "height": HEIGHT, "rotation_deg": 0, "sample_aspect": 1.0, "fps": float(FPS), "nominal_fps": 16.0,
    "variable_fps": False, "num_frames": NUM_FRAMES, "duration_s": NUM_FRAMES / FPS, "codec": "h264",
    "pixel_format": "yuv420p", "bit_depth": 8, "has_audio": False,
}  # fmt: skip
HEVC, VP9, AV1, MPEG4 = ({"codec": codec} for codec in ("hevc", "vp9", "av1", "mpeg4"))
DEEP = {"pixel_format": "yuv420p10le", "bit_depth": 10}
DEEP_422 = {"pixel_format": "yuv422p10le", "bit_depth": 10}
VARYING = {
    "variable_fps": True,
    "fps": 17 / 25 * FPS,
    "duration_s": 18 * 25 / 17 / FPS,
}  # 17 last as long as 25
NAMES = ["two words.mkv", "na\u00efve \u732b.mkv", "new\nline.mkv", "a..b.mkv", "-i.mkv", "%03d.mkv", "a:b.mkv",
         "[x]*?.mkv", "UPPER.MKV", "same_stem.mkv", "same_stem.mp4", "deep/er/video.mkv"]  # fmt: skip
# path: how its row differs from PLAIN
ROWS: dict[str, dict[str, Any]] = {
    **{f"h264.{ending}": {} for ending in ("mp4", "mov", "mkv", "avi")},
    **{f"h264_{kind}.mp4": {} for kind in ("faststart", "fragments", "no_edit_list", "negative_offsets")},
    "mpegts.mov": {},
    "h264_422.mp4": {"pixel_format": "yuv422p"}, "h264_444.mkv": {"pixel_format": "yuv444p"},
    "h264_10bit.mp4": DEEP, "h264_422_10bit.mov": DEEP_422,
    **{f"hevc.{ending}": HEVC for ending in ("mp4", "mov", "mkv")}, "hevc_10bit.mp4": HEVC | DEEP,
    "hevc_422_10bit.mkv": HEVC | DEEP_422, "hevc_444.mp4": HEVC | {"pixel_format": "yuv444p"},
    **{f"vp9.{ending}": VP9 for ending in ("mp4", "mkv", "webm")}, "vp9_444.webm": VP9 | {"pixel_format": "yuv444p"},
    "vp9_10bit.webm": VP9 | DEEP,
    **{f"av1.{ending}": AV1 for ending in ("mp4", "mkv", "webm")}, "av1_10bit.mp4": AV1 | DEEP,
    **{f"mpeg4.{ending}": MPEG4 for ending in ("mp4", "mov", "mkv", "avi")},
    "prores.mov": DEEP_422 | {"codec": "prores"},
    "varying_rate.mp4": VARYING, "varying_rate.mkv": VARYING,
    "wide_pixels.mp4": {"sample_aspect": 4 / 3, "width": 128},
    "tall_pixels.mkv": VP9 | {"sample_aspect": 2 / 3, "width": 64},
    "interlaced.mp4": {"field_order": "tt"}, "interlaced.avi": MPEG4,
    "odd_size.webm": VP9 | {"width": 97, "height": 63}, "odd_size.avi": MPEG4 | {"width": 97, "height": 63},
    "odd_size.mp4": {"width": 97, "height": 63, "pixel_format": "yuv444p"},
    "one_frame.mp4": {"num_frames": 1, "duration_s": 1 / 16},
    "one_frame.webm": VP9 | {"num_frames": 1, "duration_s": 1 / 16},
    "full_range.mp4": {"pixel_format": "yuvj420p", "color_range": "pc"},
    "bt709.mp4": {"color_space": "bt709", "color_primaries": "bt709", "color_transfer": "bt709", "color_range": "tv"},
    "bt2020.mp4": HEVC | DEEP | {"color_space": "bt2020nc", "color_primaries": "bt2020", "color_transfer": "smpte2084"},
    "4k.mp4": {"width": 3840, "height": 2160, "num_frames": 3, "duration_s": 3 / 16},
    "rotated_90.mp4": {"rotation_deg": 90, "width": HEIGHT, "height": WIDTH}, "rotated_180.mp4": {"rotation_deg": 180},
    "rotated_90.mkv": {"rotation_deg": 90, "width": HEIGHT, "height": WIDTH},
    "rotated_270.mp4": {"rotation_deg": 270, "width": HEIGHT, "height": WIDTH},
    "rotated_wide_pixels.mov": {"rotation_deg": 90, "sample_aspect": 4 / 3, "width": HEIGHT, "height": 128},
    "trimmed_start.mp4": {"num_frames": NUM_FRAMES - 5, "duration_s": (NUM_FRAMES - 5) / FPS},
    "with_audio.mp4": {"has_audio": True},
    "wrong_extension.mp4": {}, "wrong_extension.avi": {},
    **dict.fromkeys(NAMES, {}),
}  # fmt: skip
REASONS: dict[str, Reason] = {
    "zero_bytes.mp4": Reason.EMPTY,
    "random_bytes.mkv": Reason.UNREADABLE,
    "text.mov": Reason.UNREADABLE,
    "a_picture.mp4": Reason.NO_VIDEO,
    "only_audio.mp4": Reason.NO_VIDEO,
    "audio_with_cover.mp4": Reason.NO_VIDEO,
    "reserved_never_written.mp4": Reason.TRUNCATED,
    "link_to_itself.mp4": Reason.UNREADABLE,
    "mirrored.mp4": Reason.UNREADABLE,
    "mirrored.mkv": Reason.UNREADABLE,
    **{f"cut_{n}_{name}.mp4": Reason.TRUNCATED for n in range(1, 10) for name in ("h264", "h264_faststart")},
    **{f"cut_0_{name}.mp4": Reason.UNREADABLE for name in ("h264", "h264_faststart")},  # a single byte
}


@pytest.fixture(scope="module")
def torture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of videos, each with a caption."""
    folder = tmp_path_factory.mktemp("torture") / "clips"
    folder.mkdir()
    make_torture_set(folder)
    for path in [*ROWS, *REASONS]:
        (folder / path).with_suffix(".txt").write_text(f"a caption of {path!r}")
    yield folder


@pytest.fixture(scope="module")
def found(torture: Path) -> tuple[dict[str, dict[str, Any]], dict[str, tuple[str, str]]]:
    """Run download and probe on it: rows by path, and (reason, detail) of the rejects by path."""
    (torture.parent / "work").mkdir()
    place = Place(torture.parent, Path("no-model"), str(torture.parent / "root"))
    context = place.context(
        "download.datasets.0.source_pattern=null", "probe.resources.clips_per_part=32", "probe.resources.num_workers=2"
    )
    outcome = run_stages(context, last="probe")
    rows = read_table(context.store, outcome["probe"], "clips.parquet").to_pylist()
    rejected = [
        row
        for stage in ("download", "probe")
        for row in read_table(context.store, outcome[stage], "rejects.parquet").to_pylist()
    ]
    assert outcome["download"].counts.num_in == len(rows) + len(rejected)
    return {row["path"]: row for row in rows}, {row["path"]: (row["reason"], row["detail"]) for row in rejected}


def test_every_file_is_a_row_or_a_reject(found: Any) -> None:
    rows, rejected = found
    assert set(rows) == set(ROWS) and set(rejected) == set(REASONS)  # hidden files and the loop add nothing


@pytest.mark.parametrize("path", ROWS)
def test_row_of(found: Any, path: str) -> None:
    row = found[0][path]
    for name, value in (PLAIN | ROWS[path]).items():
        assert row[name] == (pytest.approx(value, rel=1e-3) if isinstance(value, float) else value), name


def test_constant_rates_are_exact(found: Any) -> None:
    for path, row in found[0].items():
        assert row["variable_fps"] == path.startswith("varying")
        assert row["variable_fps"] or row["fps"] == row["nominal_fps"] == FPS


def test_the_sample_table_agrees_with_the_packets(torture: Path) -> None:
    """Counts and times come from the header alone, wherever the rate is constant and nothing is trimmed."""
    by_table = set()
    for name in ROWS:
        with opened(torture / name) as (container, stream), (torture / name).open("rb") as file:
            table = probe._times_of_index(file.fileno(), stream, 8 if container.format.name == "avi" else 0)
            if table is None or name == "h264_fragments.mp4":  # its table holds the first fragment
                continue
            by_table.add(name)
            packets, _ = probe._times_of_packets(container, stream, 0)
        assert table == packets, name
    assert {f"h264.{ending}" for ending in ("mp4", "mov", "avi")} < by_table
    assert not {"varying_rate.mp4", "trimmed_start.mp4", "h264.mkv", "mpegts.mov"} & by_table


@pytest.mark.parametrize("path", REASONS)
def test_reason_of(found: Any, path: str) -> None:
    reason, detail = found[1][path]
    assert reason == REASONS[path] and detail


def test_every_video_decodes_as_by_ffmpeg(torture: Path, found: Any, tmp_path: Path) -> None:
    """Most are equal to the bit; the rest differ in rounding and in where chroma is sampled.

    Those are 10 bits in 4:2:0, interlaced frames, and odd sizes: 42 to 52 dB.
    """
    videos = [torture / path for path in ROWS if path not in NAMES or path in ("new\nline.mkv", "a:b.mkv", "%03d.mkv")]
    by_ffmpeg = decode_by_ffmpeg(videos, tmp_path)
    worst = {}
    for video in videos:
        row = found[0][str(video.relative_to(torture))]
        turns = row["rotation_deg"] // 90
        expected = np.stack(list(made_square(by_ffmpeg[video.name], row)))
        frames = read_frames(video, range(row["num_frames"]), height=row["height"], width=row["width"])
        assert frames.shape == expected.shape, video.name
        worst[video.name] = min(psnr(*pair) for pair in zip(frames, expected, strict=True))
        first = 5 if video.name == "trimmed_start.mp4" else 0
        seen = [number(np.rot90(frame, -turns)) for frame in frames]
        assert seen == list(range(first, first + row["num_frames"])), video.name
    assert min(worst.values()) >= 40, {name: value for name, value in worst.items() if value < 40}
    assert sum(value == np.inf for value in worst.values()) > len(videos) - 12


def made_square(pixels: NDArray[np.uint8], row: dict[str, Any]) -> Iterator[NDArray[np.uint8]]:
    """Cut ffmpeg's bytes into frames and make their pixels square, as players do."""
    size = [row["width"], row["height"]]
    size[row["rotation_deg"] // 90 % 2] = round(size[row["rotation_deg"] // 90 % 2] / row["sample_aspect"])
    for frame in pixels.reshape(-1, size[1], size[0], 3):
        image = Image.fromarray(frame)
        yield np.asarray(image.resize((row["width"], row["height"]), Image.Resampling.BICUBIC))
