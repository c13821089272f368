"""Parse the packets of an h264 video in MP4 or Matroska: does one hold one whole picture, and may decoding begin there?

Nothing is decoded. A packet that is understood has a whole structure and gives exactly one frame, with the decoder
settings (parameter sets, film grain, orientation) of the video's header; all others raise. Damage inside a picture's
data is not seen.
"""

from collections.abc import Iterator
from dataclasses import dataclass

# SEI messages that leave pixels, order and orientation alone: timing, captions, recovery, time code, light levels
_PLAIN_SEI = {0, 1, 4, 5, 6, 129, 130, 132, 136, 137, 144}
_AOM_FILM_GRAIN = b"\xb5\x58\x90"  # a registered message that changes pixels
_SHORT_PROFILES = (66, 77, 88)  # without the fields on chroma in their sequence parameter set


@dataclass(frozen=True)
class Header:
    """The video's avcC box: the number of bytes of a NAL unit's length, and the parameter sets."""

    length_bytes: int
    parameter_sets: frozenset[bytes]


def read_header(extradata: bytes) -> Header:
    """Read an avcC box. Raises ValueError or IndexError unless it is whole, of one sequence, in whole frames."""
    if extradata[0] != 1 or extradata[5] & 31 != 1:
        raise ValueError("not an avcC box with one sequence parameter set")
    sets, at = [], 5
    for mask in (31, 255):  # sequence, then picture parameter sets
        count, at = extradata[at] & mask, at + 1
        for _ in range(count):
            size = int.from_bytes(extradata[at : at + 2])
            sets.append(extradata[at + 2 : at + 2 + size])
            at += 2 + size
    if at > len(extradata) or not _in_whole_frames(sets[0]):
        raise ValueError("the parameter sets are cut, or allow fields or gaps")
    return Header((extradata[4] & 3) + 1, frozenset(sets))


def is_entry(packet: bytes, header: Header, *, is_first: bool) -> bool:
    """Whether no packet from this one on needs any before it: an IDR picture. `is_first`: of the video.

    Raises:
        ValueError: the packet is not understood.
    """
    num_pictures, slices = 0, set()
    for unit in _units(packet, header.length_bytes):
        kind = unit[0] & 0x9F  # with the bit that must be 0
        if kind in (1, 5):
            num_pictures += unit[1] >> 7  # the slice begins at the first block
            slices.add(kind)
        elif kind == 6:
            _check_messages(unit[1:], is_first=is_first)
        elif not (unit in header.parameter_sets if kind in (7, 8) else kind in (9, 12)):  # delimiters and filling
            raise ValueError(f"a NAL unit of type {kind}, or other parameters than the header's")
    if num_pictures != 1 or len(slices) != 1:
        raise ValueError(f"{num_pictures} pictures in one packet, of slices {slices}")
    return slices == {5}


def _units(packet: bytes, length_bytes: int) -> Iterator[bytes]:
    """Yield NAL units; each follows its length. Raises ValueError if the lengths do not add up to the packet."""
    at = 0
    while at < len(packet):
        start = at + length_bytes
        at = start + int.from_bytes(packet[start - length_bytes : start])
        if at > len(packet) or at < start + 2:
            raise ValueError("a NAL unit is cut or empty")
        yield packet[start:at]


def _unescaped(unit: bytes) -> bytes:
    return unit.replace(b"\0\0\3", b"\0\0")


def _check_messages(messages: bytes, *, is_first: bool) -> None:
    """Raise ValueError unless supplemental messages change no pixel: x264 names its version in the first packet."""
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
        is_plain = numbers[0] in _PLAIN_SEI and not (numbers[0] == 4 and payload.startswith(_AOM_FILM_GRAIN))
        if not is_plain or len(payload) < numbers[1] or (b"x264" in payload and not is_first):
            raise ValueError(f"a message of type {numbers[0]}")


def _in_whole_frames(parameters: bytes) -> bool:
    """Whether a sequence parameter set allows whole frames only, without gaps in their numbers."""
    bits, profile = _Bits(parameters[4:]), parameters[1]
    bits.golomb()  # its own number
    if profile not in _SHORT_PROFILES:
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


class _Bits:
    """The bits of a NAL unit. Raises ValueError beyond the end."""

    def __init__(self, unit: bytes) -> None:
        self._bits = "".join(f"{byte:08b}" for byte in _unescaped(unit))
        self._at = 0

    def take(self, count: int) -> int:
        self._at += count
        if self._at > len(self._bits):
            raise ValueError("the parameter set is cut")
        return int(self._bits[self._at - count : self._at], 2)

    def golomb(self) -> int:
        zeros = self._bits.index("1", self._at) - self._at
        self._at += zeros
        return self.take(zeros + 1) - 1
