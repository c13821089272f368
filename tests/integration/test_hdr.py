"""PQ and HLG: tone-mapped as ffmpeg's zscale and tonemap do it, on charts and ramps, in every coding of them."""

from pathlib import Path
from typing import Any

import pytest

from sana.data.video.frames import read_frames
from tests.colored_videos import CHARTS, HEIGHT, HEVC, TONE_MAP, VP9, WIDTH, filtered, make_chart
from tests.video_files import psnr

pytestmark = pytest.mark.timeout(60)

SIZE = {"height": HEIGHT, "width": WIDTH}
TRANSFERS = {"pq": "smpte2084", "hlg": "arib-std-b67"}
HDR10: dict[str, Any] = {
    "matrix": "bt2020nc",
    "primaries": "bt2020",
    "pixel_format": "yuv420p10le",
    "coded_by": "bt2020",
    "encoder": HEVC,
}
CODINGS: dict[str, dict[str, Any]] = {
    "full range": {"levels": "pc"},
    "8 bits": {"pixel_format": "yuv420p"},
    "12 bits, 4:4:4": {"pixel_format": "yuv444p12le"},
    "4:2:2": {"pixel_format": "yuv422p10le"},
    "VP9 profile 2": {"encoder": VP9},
    "ProRes": {"pixel_format": "yuv422p10le", "encoder": ("-c:v", "prores_ks")},
    "RGB": {"matrix": "gbr", "levels": "pc", "pixel_format": "gbrp10le", "encoder": ("-c:v", "ffv1")},
    "primaries of P3": {"primaries": "smpte432"},
    "primaries and matrix of BT.709": {"primaries": "bt709", "matrix": "bt709", "coded_by": "bt709"},
}


@pytest.mark.parametrize("treatment", TRANSFERS)
@pytest.mark.parametrize("chart", CHARTS)
def test_charts_are_those_of_the_reference(tmp_path: Path, chart: str, treatment: str) -> None:
    path = make_chart(tmp_path / "chart.mp4", chart, transfer=TRANSFERS[treatment], **HDR10)
    frames = read_frames(path, range(2), **SIZE, treatment=treatment)
    expected = filtered(path, TONE_MAP)
    assert psnr(frames, expected) >= 40
    assert psnr(read_frames(path, range(2), **SIZE), expected) <= psnr(frames, expected) - 8  # what it would be without


@pytest.mark.parametrize("treatment", TRANSFERS)
@pytest.mark.parametrize("coding", CODINGS)
def test_every_coding_of_it_is_read_right(tmp_path: Path, coding: str, treatment: str) -> None:
    options = HDR10 | CODINGS[coding]
    path = tmp_path / ("chart.mov" if coding == "ProRes" else "chart.mkv")
    make_chart(path, "colours", transfer=TRANSFERS[treatment], **options)
    assert psnr(read_frames(path, range(2), **SIZE, treatment=treatment), filtered(path, TONE_MAP)) >= 35
