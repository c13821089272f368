"""What an HEVC stream says of itself in its header, where a container may say something else or nothing.

Nothing is decoded. Decoders, and players with them, go by the stream.
"""

from dataclasses import dataclass

from av.codec.context import CodecContext
from av.video.codeccontext import VideoCodecContext

_PROFILE_IN_CONFIGURATION = 1  # bytes of a box hvcC before its profile
_PARAMETER_SET = b"\0\0\1\x42\x01"  # start code and header of a sequence parameter set in a raw stream
_PROFILE_IN_SET = 1  # bytes after that header and before the profile
_FLAGS_IN_PROFILE = 5  # bytes before general_progressive_source_flag
_SOURCE, _INTERLACED = 0xC0, 0x40  # the flags of progressive and interlaced sources; the second alone


@dataclass(frozen=True)
class HevcTags:
    """Numbers of libavutil, 2 if not stated; and whether all pictures are of interlaced video."""

    colorspace: int
    color_primaries: int
    color_trc: int
    is_interlaced: bool


def hevc_tags(context: VideoCodecContext) -> HevcTags:
    """Return the tags in the header of an opened stream.

    Raises:
        av.FFmpegError: the header cannot be read.
    """
    header = context.extradata or b""
    stream = CodecContext.create("hevc", "r")
    assert isinstance(stream, VideoCodecContext)
    stream.extradata, stream.thread_count = header, 1
    stream.open(strict=False)
    profile = _profile(header)
    flags = profile[_FLAGS_IN_PROFILE] if len(profile) > _FLAGS_IN_PROFILE else 0
    interlaced = flags & _SOURCE == _INTERLACED
    return HevcTags(stream.colorspace, stream.color_primaries, stream.color_trc, interlaced)


def _profile(header: bytes) -> bytes:
    """Return the header from the profile of its first parameter set on; empty if there is none."""
    if header[:1] == b"\1":
        return header[_PROFILE_IN_CONFIGURATION:]
    _, found, parameters = header.partition(_PARAMETER_SET)
    return parameters[_PROFILE_IN_SET:].replace(b"\0\0\3", b"\0\0") if found else b""
