"""Containers and codecs in use: how to make a small video of each, and what probe must read from it."""

from fractions import Fraction
from typing import Any

# name: file ending, make_video's arguments, (codec, pixel format, bit depth)
FORMATS: dict[str, tuple[str, dict[str, Any], tuple[str, str, int]]] = {
    "h264": ("mp4", {"bframes": 3}, ("h264", "yuv420p", 8)),
    "h264_faststart_audio": ("mp4", {"bframes": 2, "faststart": True, "audio": True}, ("h264", "yuv420p", 8)),
    "h264_fragments": ("mp4", {"container": {"movflags": "frag_keyframe+empty_moov"}}, ("h264", "yuv420p", 8)),
    "h264_no_edit_list": ("mp4", {"bframes": 3, "container": {"use_editlist": "0"}}, ("h264", "yuv420p", 8)),
    "h264_starts_late": ("mp4", {"bframes": 3, "first_pts": 7}, ("h264", "yuv420p", 8)),
    "h264_open_gop": ("mkv", {"bframes": 3, "codec_options": {"x264-params": "open-gop=1"}}, ("h264", "yuv420p", 8)),
    "h264_negative_start": ("mkv", {"bframes": 3, "first_pts": -3}, ("h264", "yuv420p", 8)),
    "h264_bt709": ("mov", {"tagged": "bt709"}, ("h264", "yuv420p", 8)),
    "h264_ntsc": ("mp4", {"fps": Fraction(30000, 1001)}, ("h264", "yuv420p", 8)),
    "h264_mpegts": ("ts", {"bframes": 3}, ("h264", "yuv420p", 8)),
    "hevc": ("mp4", {"codec": "libx265", "bframes": 3}, ("hevc", "yuv420p", 8)),
    "hevc_10bit": ("mkv", {"codec": "libx265", "pixel_format": "yuv420p10le"}, ("hevc", "yuv420p10le", 10)),
    "vp9": ("webm", {"codec": "libvpx-vp9"}, ("vp9", "yuv420p", 8)),
    "mpeg4": ("mp4", {"codec": "mpeg4"}, ("mpeg4", "yuv420p", 8)),
    "mpeg4_bframes": ("avi", {"codec": "mpeg4", "bframes": 2}, ("mpeg4", "yuv420p", 8)),
    "prores": ("mov", {"codec": "prores_ks", "pixel_format": "yuv422p10le"}, ("prores", "yuv422p10le", 10)),
    "ffv1": ("mkv", {"codec": "ffv1"}, ("ffv1", "yuv420p", 8)),
}
NUM_FRAMES = 40
