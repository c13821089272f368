"""Fields and colours as files have them: deinterlaced, read by the right matrix, the same whichever way it is read."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from sana.data.schemas import ADDED_COLUMNS, TREATMENTS
from sana.data.video import decode_by_time, frames, one_pass
from sana.data.video.bitstream import h264_seek
from sana.data.video.frames import read_frames, read_window
from sana.data.video.one_pass import read_windows
from sana.data.video.probe import probe_video
from sana.data.video.treatment import may_seek
from sana.data.video.video import ClipRejected, rgb
from tests.colored_videos import H264, HEIGHT, HEVC, WIDTH, ffmpeg, make_chart, make_interlaced
from tests.video_files import blank_packet, decode_all, make_video, psnr, rejection

pytestmark = pytest.mark.timeout(60)

SIZE = {"height": HEIGHT, "width": WIDTH}
WOVEN: dict[str, tuple[str, dict[str, Any]]] = {  # interlaced files: their ending, and how they are made
    "h264, top first": ("mp4", {}),
    "h264, bottom first": ("mkv", {"top_first": False, "encoder": (*H264, "-x264-params", "bff=1")}),
    "mpeg2, top first": ("ts", {"encoder": ("-c:v", "mpeg2video", "-q:v", "2")}),
    "mpeg2, bottom first": ("mpg", {"top_first": False, "encoder": ("-c:v", "mpeg2video", "-q:v", "2")}),
    "prores": ("mov", {"encoder": ("-c:v", "prores_ks")}),
}


@pytest.fixture(scope="module")
def woven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_interlaced(tmp_path_factory.mktemp("woven") / "woven.mp4", num_frames=40)


def by_bwdif(path: Path) -> NDArray[np.uint8]:
    """ffmpeg's own deinterlacing, whose frames are then made RGB as all are here: uint8 [F, H, W, 3]."""
    whole = path.with_name("whole.mkv")
    ffmpeg("-i", path, "-vf", "bwdif=mode=send_frame", "-fps_mode", "passthrough", "-c:v", "ffv1", whole)
    with av.open(str(whole)) as container:
        return np.stack([rgb(frame) for frame in container.decode(video=0)])


@pytest.mark.parametrize("name", WOVEN)
def test_interlaced_video_is_that_of_bwdif(tmp_path: Path, name: str) -> None:
    ending, options = WOVEN[name]
    path = make_interlaced(tmp_path / f"woven.{ending}", **options)
    info = probe_video(path)
    assert info.field_order in ("tt", "bb", "tb", "bt") and info.num_frames == 12
    whole, expected = read_frames(path, range(12), **SIZE, treatment="bwdif"), by_bwdif(path)
    assert psnr(whole[1:], expected[1:]) >= 50
    assert psnr(whole[0], expected[0]) >= 30  # versions of libav differ on a frame that none precedes
    assert psnr(read_frames(path, range(12), **SIZE), whole) < 35  # the combs that it takes away


def window(start: int, rate: float, treatment: str) -> dict[str, Any]:
    row = {"digest": "d", "bucket": f"5x{HEIGHT}x{WIDTH}", "start_frame": start, "window_fps": rate}
    crop = {"crop_left": 0.0, "crop_top": 0.0, "crop_width": float(WIDTH), "crop_height": float(HEIGHT)}
    return {**row, **crop, "treatment": treatment}


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_a_window_is_the_same_alone_among_others_and_in_the_whole(
    woven: Path, treatment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (frames, one_pass, h264_seek, decode_by_time):
        monkeypatch.setattr(module, "MIN_SKIPPED", 4)  # let seeking happen where it may
    whole = read_frames(woven, range(40), **SIZE, treatment=treatment)
    starts = [0, 3, 11, 26, 35]
    for rate in (0.0, 25.0):
        rows = [window(start, rate, treatment) for start in starts]
        for start, row, together in zip(starts, rows, read_windows(woven, rows), strict=True):
            assert np.array_equal(read_window(woven, row), whole[start : start + 5])
            assert not isinstance(together, ClipRejected) and np.array_equal(together, whole[start : start + 5])
    fast = [window(start, 50.0, treatment) for start in (0, 20)]
    for row, together in zip(fast, read_windows(woven, fast), strict=True):
        assert np.array_equal(together, read_window(woven, row))
        assert np.array_equal(together, whole[[(row["start_frame"] + k) // 2 for k in range(5)]])
    late = window(36, 0.0, treatment)  # ends behind the last frame
    assert rejection(read_window, woven, late) == "truncated"
    assert may_seek(treatment) == ("bwdif" not in treatment and treatment[:2] not in ("pq", "hl"))


@pytest.mark.parametrize("ending", ["mp4", "ts"])
def test_damage_does_to_a_window_what_it_does_to_it_alone(tmp_path: Path, ending: str) -> None:
    """A frame is made with the one after it: damage there is met by the window before it too, in any company."""
    encoder = H264 if ending == "mp4" else ("-c:v", "mpeg2video", "-q:v", "2")
    path = make_interlaced(tmp_path / f"woven.{ending}", encoder=(*encoder, "-g", "4"), num_frames=24)
    blank_packet(path, 10)
    rows = [window(start, 0.0, "bwdif") for start in (0, 3, 5, 6, 8, 15)]
    alone: list[bytes | str] = []
    for row in rows:
        try:
            alone.append(read_window(path, row).tobytes())
        except ClipRejected as rejected:
            alone.append(str(rejected))
    together = [str(one) if isinstance(one, ClipRejected) else one.tobytes() for one in read_windows(path, rows)]
    assert together == alone and isinstance(alone[0], bytes)


@pytest.mark.parametrize("treatment", ["bwdif", "bwdif+hlg", "pq"])
def test_a_turned_video_is_upright(woven: Path, tmp_path: Path, treatment: str) -> None:
    turned = tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", "90", "-i", woven, "-c", "copy", turned)
    assert probe_video(turned).rotation_deg == 90
    plain = read_frames(woven, range(3), **SIZE, treatment=treatment)
    upright = read_frames(turned, range(3), height=WIDTH, width=HEIGHT, treatment=treatment)
    assert np.array_equal(upright, np.rot90(plain, axes=(1, 2)))


@pytest.mark.parametrize("matrix", ["bt709", "bt2020nc"])
def test_an_untagged_video_is_read_by_the_matrix_of_its_treatment(tmp_path: Path, matrix: str) -> None:
    coded = {"coded_by": matrix.removesuffix("nc")}
    untagged = make_chart(tmp_path / "untagged.mp4", "colours", **coded)
    tagged = make_chart(tmp_path / "tagged.mp4", "colours", **coded, matrix=matrix)
    told = read_frames(untagged, range(2), **SIZE, treatment=coded["coded_by"])
    assert np.array_equal(told, decode_all(tagged))
    assert np.array_equal(read_frames(untagged, range(2), **SIZE), decode_all(untagged))
    assert psnr(told, np.stack(decode_all(untagged))) < 35
    # frames that say what they are hold, whatever the header made of it
    assert np.array_equal(read_frames(tagged, range(2), **SIZE, treatment="bt709"), decode_all(tagged))


# libavutil's number of each matrix, and its weights of red and blue
MATRICES = {
    "bt709": (1, 0.2126, 0.0722),
    "unknown": (2, 0.299, 0.114),
    "reserved": (3, 0.299, 0.114),
    "fcc": (4, 0.30, 0.11),
    "bt470bg": (5, 0.299, 0.114),
    "smpte170m": (6, 0.299, 0.114),
    "smpte240m": (7, 0.212, 0.087),
    "bt2020nc": (9, 0.2627, 0.0593),
}


@pytest.mark.parametrize("pixel_format", ["yuv444p", "yuvj444p", "yuv420p10le"])
@pytest.mark.parametrize("name", MATRICES)
def test_sdr_is_read_by_its_own_matrix_and_range_and_as_libav_does(name: str, pixel_format: str) -> None:
    number, red, blue = MATRICES[name]
    deep, full = pixel_format.endswith("10le"), "j" in pixel_format
    frame = av.VideoFrame(32, 16, pixel_format)
    for plane, value in zip(frame.planes, (120, 90, 190), strict=True):
        values = np.full(plane.buffer_size // (2 if deep else 1), value * (4 if deep else 1))
        plane.update(values.astype(np.uint16 if deep else np.uint8).tobytes())
    frame.colorspace, frame.color_range = number, 2 if full else 1
    light, height = (120 / 255, 255) if full else (104 / 219, 224)
    r, b = light + 2 * (1 - red) * 62 / height, light - 2 * (1 - blue) * 38 / height
    g = (light - red * r - blue * b) / (1 - red - blue)
    got = rgb(frame)
    assert np.abs(got - np.clip(np.array([r, g, b]) * 255, 0, 255)).max() <= 2.5
    if name != "reserved":  # which libav refuses
        assert np.array_equal(got, frame.to_ndarray(format="rgb24"))


@pytest.mark.parametrize("rate", [0.0, 16.0])
def test_a_named_matrix_holds_where_decoding_begins_late(
    tmp_path: Path, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (frames, one_pass, h264_seek, decode_by_time):
        monkeypatch.setattr(module, "MIN_SKIPPED", 12)
    path = make_video(tmp_path / "long.mp4", num_frames=60, width=WIDTH, height=HEIGHT, gop=12)
    with av.open(str(path)) as container:
        whole = [rgb(frame, matrix=1) for frame in container.decode(video=0)]
    entries: list[object] = []
    for module in (frames, decode_by_time):
        monkeypatch.setattr(
            module, "find_entry", lambda *args: entries.append(h264_seek.find_entry(*args)) or entries[-1]
        )
    assert np.array_equal(read_window(path, window(50, rate, "bt709")), whole[50:55])
    assert entries and None not in entries


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
def test_tags_of_hdr_may_be_in_the_container_only_or_left_out(tmp_path: Path, transfer: str) -> None:
    options: dict[str, Any] = {"pixel_format": "yuv420p10le", "coded_by": "bt2020", "encoder": HEVC}
    treatment = {"smpte2084": "pq", "arib-std-b67": "hlg"}[transfer]
    tags = {"matrix": "bt2020nc", "primaries": "bt2020", "transfer": transfer}
    full = read_frames(make_chart(tmp_path / "full.mp4", "bars", **options, **tags), [0], **SIZE, treatment=treatment)
    bare = make_chart(tmp_path / "bare.mp4", "bars", **options)
    assert np.array_equal(read_frames(bare, [0], **SIZE, treatment=treatment), full)  # BT.2020 is what HDR is in
    named = tmp_path / "named.mp4"
    ffmpeg(
        "-i", bare, "-c", "copy", "-color_primaries", "smpte432", "-color_trc", transfer, "-colorspace", "bt709",
        "-movflags", "+write_colr", named,
    )  # fmt: skip
    assert probe_video(named).color_transfer == transfer
    tags = {"matrix": "bt709", "primaries": "smpte432", "transfer": transfer}
    full = read_frames(make_chart(tmp_path / "p3.mp4", "bars", **options, **tags), [0], **SIZE, treatment=treatment)
    assert np.array_equal(read_frames(named, [0], **SIZE, treatment=treatment), full)


def test_a_coding_that_is_not_known_is_told_and_no_file_is_read_by_another(tmp_path: Path) -> None:
    path = make_chart(tmp_path / "ycgco.mp4", "bars", matrix="ycgco")
    assert probe_video(path).color_space == "ycgco"
    for treatment in TREATMENTS:
        assert rejection(read_frames, path, [0], **SIZE, treatment=treatment) == "color"
    path = make_chart(tmp_path / "film.mp4", "bars", primaries="film")
    assert rejection(read_frames, path, [0], **SIZE, treatment="pq") == "color"
    with pytest.raises(ValueError, match="'pq\\+bwdif' is unknown"):
        read_frames(path, [0], **SIZE, treatment="pq+bwdif")
    assert ADDED_COLUMNS["treatment"] == TREATMENTS[0] == ""
