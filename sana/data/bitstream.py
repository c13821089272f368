"""What a packet of a film holds, from its bytes: whether it is one picture, and whether decoding may begin with it.

Nothing is decoded. What is not understood is None: such a film is decoded from its start. A reader vouches that the
packet gives exactly one frame, that the decoder's settings (parameter sets, film grain, orientation) are those of the
file's header, and that the packet's outline is whole. Damage inside a picture's data is not seen by it.
"""

from collections.abc import Callable, Iterator
from enum import Enum
from functools import partial

# SEI messages that leave pixels, order and orientation alone: timing, captions, recovery, time code, light levels
_PLAIN_SEI = {0, 1, 4, 5, 6, 129, 130, 132, 136, 137, 144}
_AOM_FILM_GRAIN = b"\xb5\x58\x90"  # a registered message that changes pixels
_H264_SHORT_PROFILES = (66, 77, 88)  # without the fields on chroma in their sequence parameter set
_VP9_SYNC = b"\x49\x83\x42"


class Kind(Enum):
    ENTRY = "entry"  # nothing behind it in the file needs anything before it, but for LEADING ones that follow at once
    LEADING = "leading"  # shown before the ENTRY that it follows in the file; it may need what comes before that
    OTHER = "other"


Reader = Callable[[bytes, bool], Kind | None]  # a packet, and whether it is the first of the film


def packet_reader(codec: str, extradata: bytes) -> Reader | None:
    """Return what reads the packets of a film in MP4 or Matroska, None if its header is not understood.

    `codec` is libav's name. Read: h264 in whole frames and with one sequence parameter set, HEVC of one layer whose
    pictures are all shown, VP9, and AV1 of one layer.
    """
    try:
        if codec == "h264" and extradata[0] == 1:
            return _h264_reader(extradata)
        if codec == "hevc" and extradata[0] == 1:
            return _hevc_reader(extradata)
    except (IndexError, ValueError):  # the header is cut
        return None
    if codec == "av1":
        return _Av1()
    return _vp9 if codec == "vp9" else None


class _Bits:
    """The bits of a NAL unit, escapes removed. Raises IndexError or ValueError behind the end."""

    def __init__(self, unit: bytes) -> None:
        self._bits = "".join(f"{byte:08b}" for byte in _unescaped(unit))
        self._at = 0

    def take(self, count: int) -> int:
        self._at += count
        return int(self._bits[self._at - count : self._at], 2)

    def golomb(self) -> int:
        zeros = self._bits.index("1", self._at) - self._at
        self._at += zeros
        return self.take(zeros + 1) - 1


def _unescaped(unit: bytes) -> bytes:
    return unit.replace(b"\0\0\3", b"\0\0")


def _units(packet: bytes, length_bytes: int) -> Iterator[bytes]:
    """Yield NAL units behind their lengths. Raises ValueError if the lengths do not add up to the packet."""
    at = 0
    while at < len(packet):
        start = at + length_bytes
        at = start + int.from_bytes(packet[start - length_bytes : start])
        if at > len(packet) or at < start + 2:
            raise ValueError("a NAL unit is cut or empty")
        yield packet[start:at]


def _plain_sei(messages: bytes) -> bool:
    """Whether supplemental messages are all among those that change no pixel."""
    data, at = _unescaped(messages), 0
    while at + 2 <= len(data) and data[at:].rstrip(b"\0") != b"\x80":
        numbers = []
        for _ in ("type", "size"):
            number = 0
            while at < len(data) and data[at] == 255:
                number, at = number + 255, at + 1
            numbers.append(number + (data[at] if at < len(data) else 0))
            at += 1
        payload = data[at : at + numbers[1]]
        at += numbers[1]
        if numbers[0] not in _PLAIN_SEI or len(payload) < numbers[1] or b"x264" in payload:
            return False
        if numbers[0] == 4 and payload.startswith(_AOM_FILM_GRAIN):
            return False
    return True


def _h264_reader(extradata: bytes) -> Reader | None:
    """Read an avcC box: one sequence parameter set, then any number of picture parameter sets."""
    sets, at = [], 5
    for mask in (31, 255):
        count, at = extradata[at] & mask, at + 1
        for _ in range(count):
            size = int.from_bytes(extradata[at : at + 2])
            sets.append(extradata[at + 2 : at + 2 + size])
            at += 2 + size
    if extradata[5] & 31 != 1 or at > len(extradata) or not _h264_in_frames(sets[0]):
        return None
    return partial(_h264, length_bytes=(extradata[4] & 3) + 1, known=frozenset(sets))


def _h264_in_frames(parameters: bytes) -> bool:
    """Whether a sequence parameter set allows whole frames only, without gaps in their numbers."""
    bits, profile = _Bits(parameters[4:]), parameters[1]
    bits.golomb()  # its own number
    if profile not in _H264_SHORT_PROFILES:
        if bits.golomb() == 3:
            bits.take(1)
        bits.golomb(), bits.golomb()  # bit depths
        if bits.take(2) & 1:  # scaling lists: rare, and long to read
            return False
    bits.golomb()
    order_type = bits.golomb()
    if order_type == 1:
        return False
    if order_type == 0:
        bits.golomb()
    bits.golomb()  # reference frames
    has_gaps = bits.take(1)
    bits.golomb(), bits.golomb()  # size
    return not has_gaps and bits.take(1) == 1


def _h264(packet: bytes, is_first: bool, *, length_bytes: int, known: frozenset[bytes]) -> Kind | None:
    num_pictures, slices = 0, set()
    try:
        for unit in _units(packet, length_bytes):
            kind = unit[0]  # with the bit that must be 0
            if kind & 0x9F in (1, 5):
                num_pictures += unit[1] >> 7  # the slice begins at the first block
                slices.add(kind & 31)
            elif kind == 6:
                if not is_first and not _plain_sei(unit[1:]):
                    return None
            elif kind & 0x9F in (7, 8):
                if unit not in known:
                    return None
            elif kind & 0x9F not in (9, 12):  # delimiters and filling
                return None
    except ValueError:
        return None
    if num_pictures != 1 or len(slices) != 1:
        return None
    return Kind.ENTRY if slices == {5} else Kind.OTHER


def _hevc_reader(extradata: bytes) -> Reader | None:
    """Read an hvcC box: arrays of parameter sets, with one sequence parameter set."""
    sets, at = [], 23
    for _ in range(extradata[22]):
        count, at = int.from_bytes(extradata[at + 1 : at + 3]), at + 3
        for _ in range(count):
            size = int.from_bytes(extradata[at : at + 2])
            sets.append(extradata[at + 2 : at + 2 + size])
            at += 2 + size
    kinds = [unit[0] >> 1 & 63 for unit in sets]
    if at > len(extradata) or kinds.count(33) != 1:
        return None
    for unit in (unit for unit, kind in zip(sets, kinds, strict=True) if kind == 34):
        bits = _Bits(unit[2:])
        bits.golomb(), bits.golomb(), bits.take(1)  # its own number, that of its sequence, dependent slices
        if bits.take(1):  # pictures may say that they are not shown
            return None
    return partial(_hevc, length_bytes=(extradata[21] & 3) + 1, known=frozenset(sets))


def _hevc(packet: bytes, is_first: bool, *, length_bytes: int, known: frozenset[bytes]) -> Kind | None:
    num_pictures, slices = 0, set()
    try:
        for unit in _units(packet, length_bytes):
            kind = unit[0] >> 1  # with the bit that must be 0
            if unit[0] & 1 or unit[1] >> 3 or len(unit) < 3:  # another layer: depth, transparency, a second eye
                return None
            if kind <= 9 or 19 <= kind <= 21:
                num_pictures += unit[2] >> 7  # the slice begins the picture
                slices.add(kind)
                if kind >= 19 and unit[2] & 0x40:  # pictures that wait are dropped
                    return None
            elif kind in (39, 40):
                if not _plain_sei(unit[2:]):
                    return None
            elif kind in (32, 33, 34):
                if unit not in known:
                    return None
            elif kind not in (35, 38):  # delimiters and filling
                return None
    except ValueError:
        return None
    if num_pictures != 1 or len(slices) != 1:
        return None
    (kind,) = slices
    return Kind.ENTRY if kind >= 19 else Kind.LEADING if kind >= 6 else Kind.OTHER


def _vp9(packet: bytes, is_first: bool) -> Kind | None:
    frames = [packet]
    marker = packet[-1] if packet else 0
    num_frames, size_bytes = (marker & 7) + 1, (marker >> 3 & 3) + 1
    index_bytes = 2 + num_frames * size_bytes
    if marker & 0xE0 == 0xC0 and len(packet) >= index_bytes and packet[-index_bytes] == marker:  # a superframe
        frames, at = [], 0
        for number in range(num_frames):
            where = len(packet) - index_bytes + 1 + number * size_bytes
            size = int.from_bytes(packet[where : where + size_bytes], "little")
            frames.append(packet[at : at + size])
            at += size
        if at != len(packet) - index_bytes:
            return None
    num_shown, is_entry = 0, False
    for frame in frames:
        if not frame or frame[0] >> 6 != 2:
            return None
        bits = (
            int.from_bytes(frame[:2].ljust(2, b"\0")) << (3 if frame[0] & 0x30 != 0x30 else 4) & 0xFFFF
        )  # behind the profile
        is_repeat, is_inter, is_shown = bits >> 14 & 1, bits >> 13 & 1, bits >> 12 & 1
        num_shown += is_repeat | is_shown
        if not is_repeat and not is_inter:
            sync = frame[1:4] if frame[0] & 0x30 != 0x30 else _VP9_SYNC
            is_entry = bool(is_shown) and len(frames) == 1 and sync == _VP9_SYNC
    if num_shown != 1:
        return None
    return Kind.ENTRY if is_entry else Kind.OTHER


def _obus(packet: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield AV1's units as (type, content). Raises ValueError or IndexError where their sizes do not add up."""
    at = 0
    while at < len(packet):
        head, at = packet[at], at + 1
        if head & 0x85:  # a bit that must be 0, an extension for layers, a reserved bit
            raise ValueError("not a plain unit")
        size, shift = len(packet) - at, 0
        if head & 2:
            size = 0
            while True:
                byte, at = packet[at], at + 1
                size |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    break
        if at + size > len(packet):
            raise ValueError("a unit is cut")
        yield head >> 3 & 15, packet[at : at + size]
        at += size


class _Av1:
    """Reads a film whose sequence headers are all like its first packet's (the container's may differ: SVT-AV1)."""

    def __init__(self) -> None:
        self._known = b""

    def __call__(self, packet: bytes, is_first: bool) -> Kind | None:
        num_shown, is_entry, has_header, num_frames = 0, False, False, 0
        try:
            for kind, content in _obus(packet):
                if kind == 1:
                    if is_first and not has_header:
                        self._known = content
                    if content != self._known or content[0] & 0x18:  # 0x18: made for one picture
                        return None
                    has_header = True
                elif kind in (3, 6):
                    is_repeat, is_shown = content[0] >> 7, content[0] >> 4 & 1
                    num_frames += 1
                    num_shown += is_repeat | is_shown
                    is_entry = has_header and not is_repeat and bool(is_shown) and not content[0] & 0x60
                elif kind not in (2, 4, 5, 15):  # delimiters, tiles, metadata and filling
                    return None
        except (IndexError, ValueError):
            return None
        if num_shown != 1:
            return None
        return Kind.ENTRY if is_entry and num_frames == 1 else Kind.OTHER
