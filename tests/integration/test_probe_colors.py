"""Facts of colours that no header says plainly: HLG beside another curve, and Dolby Vision's own colours."""

from pathlib import Path

import pytest

from sana.data.video.probe import probe_video
from tests.colored_videos import HEVC, ffmpeg, make_chart
from tests.video_files import rejection

pytestmark = pytest.mark.timeout(60)


def test_hlg_that_hevc_names_beside_a_curve_for_old_devices_is_found(tmp_path: Path) -> None:
    path = tmp_path / "beside.mp4"
    parameters = "log-level=error:pools=1:atc-sei=18:pic-struct=0"
    encoder = ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", parameters)
    tags = {"matrix": "bt2020nc", "primaries": "bt2020", "transfer": "bt2020-10", "coded_by": "bt2020"}
    make_chart(path, "bars", pixel_format="yuv420p10le", encoder=encoder, **tags)
    assert probe_video(path).color_transfer == "arib-std-b67"
    make_chart(path, "bars", pixel_format="yuv420p10le", encoder=HEVC, **tags)
    assert probe_video(path).color_transfer == "bt2020-10"


# a configuration record of Dolby Vision, and whether its pictures are of its own colours: profile, what else they are
DOLBY_VISION = {(5, 0): True, (8, 1): False, (8, 4): False, (7, 6): False, (10, 0): True, (10, 4): False}


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
@pytest.mark.parametrize(("profile", "also"), DOLBY_VISION)
def test_colours_of_dolby_vision_alone_are_rejected(tmp_path: Path, ending: str, profile: int, also: int) -> None:
    path = make_chart(tmp_path / f"dolby.{ending}", "bars", pixel_format="yuv420p10le", encoder=HEVC)
    record = bytes([1, 0, profile << 1, 0x15, also << 4]).ljust(24, b"\0")
    data = bytearray(path.read_bytes())
    if ending == "mp4":  # in place of a box that does not matter
        at = data.rfind(b"udta")
        data[at : at + 28] = b"dvcC" + record
    else:  # in the space that is left for an index
        at = data.find(b"\xec", data.find(b"\x18\x53\x80\x67")) + 8
        data[at : at + 31] = b"dvcC\x41\xed\x98" + record
    path.write_bytes(data)
    if DOLBY_VISION[profile, also]:
        assert rejection(probe_video, path) == "color"
    else:
        assert probe_video(path).codec == "hevc"


# what a container says of HDR10 in HEVC, and the curve that counts: that of the stream, where it states one
TAGS = {
    "stream alone": ("smpte2084", ("-colorspace", "2", "-color_primaries", "2", "-color_trc", "2"), "smpte2084"),
    "container is wrong": ("smpte2084", ("-colorspace", "1", "-color_primaries", "1", "-color_trc", "1"), "smpte2084"),
    "container alone": ("unknown", ("-colorspace", "9", "-color_primaries", "9", "-color_trc", "16"), "smpte2084"),
    "container is hasty": ("bt709", ("-colorspace", "9", "-color_primaries", "9", "-color_trc", "16"), "bt709"),
}


@pytest.mark.parametrize("ending", ["mkv", "mp4"])
@pytest.mark.parametrize("case", TAGS)
def test_tags_of_a_stream_hold_before_those_of_its_container(tmp_path: Path, case: str, ending: str) -> None:
    written, options, expected = TAGS[case]
    matrix, primaries = {"smpte2084": ("bt2020nc", "bt2020")}.get(written, (written, written))
    tags = {"matrix": matrix, "primaries": primaries, "transfer": written}
    made = make_chart(tmp_path / "made.mp4", "bars", pixel_format="yuv420p10le", encoder=HEVC, **tags)
    path = tmp_path / f"tagged.{ending}"
    ffmpeg("-i", made, "-c", "copy", *options, path)
    info = probe_video(path)
    colors = ("bt2020nc", "bt2020") if expected == "smpte2084" else ("bt709", "bt709")
    assert (info.color_space, info.color_primaries, info.color_transfer) == (*colors, expected)


@pytest.mark.parametrize("ending", ["mkv", "mp4", "ts"])
@pytest.mark.parametrize("fields", ["tff", "bff", ""])
def test_fields_of_hevc_are_found_where_no_container_tells_of_them(tmp_path: Path, fields: str, ending: str) -> None:
    parameters = "log-level=error:pools=1" + (f":interlace={fields}" if fields else "")
    encoder = ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", parameters)
    chart = "testsrc2=s=96x96:r=16," + ("separatefields" if fields else "null")
    path = make_chart(tmp_path / f"fields.{ending}", chart, encoder=encoder, num_frames=4)
    assert probe_video(path).field_order in (("tt",) if fields else ("progressive", "unknown"))
