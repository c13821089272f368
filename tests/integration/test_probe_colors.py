"""Facts of colours that no header says plainly: HLG beside another curve, and Dolby Vision's own colours."""

from pathlib import Path

import pytest

from sana.data.video.probe import probe_video
from tests.colored_videos import HEVC, make_chart
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
