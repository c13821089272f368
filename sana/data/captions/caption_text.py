"""The text of captions: decoding files with the place of the first bad byte, and what is no text."""

import codecs
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from sana.data.file_heads import HEAD_BYTES, what_it_is

BLOCK_BYTES = 1 << 23
UTF_8 = "utf-8"

# UTF-32 first: its little-endian mark begins with that of UTF-16
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, UTF_8),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zs", "Zl", "Zp", "Mn", "Me"})
_BLANKS = frozenset("\u2800\u3164\u115f\u1160\uffa0")  # letters and symbols that show nothing
REPLACEMENT = "\ufffd"  # what a reader puts for bytes that it could not decode


class TextError(ValueError):
    """A file is not text in its encoding, or not the rows that it should be; says where, and what to do."""


def encoding_of(head: bytes, encoding: str) -> tuple[str, int]:
    """Return the encoding that a byte order mark at the start names, else `encoding`; and the bytes of the mark."""
    return next(((name, len(mark)) for mark, name in _MARKS if head.startswith(mark)), (encoding, 0))


def decode_text(data: bytes, encoding: str) -> str:
    """Decode a whole file.

    Raises:
        TextError: it is a pointer or a page, a byte is not of the encoding, or the text holds NUL.
    """
    if other := what_it_is(data[:HEAD_BYTES], "a text", text_is_fine=True):
        raise TextError(other.removeprefix("it "))
    found, start = encoding_of(data, encoding)
    try:
        text = data[start:].decode(found)
    except UnicodeDecodeError as error:
        raise _bad_byte(error, found, 0) from error
    if "\0" in text:
        raise TextError(why_nul(text))
    return text


def utf8_blocks(path: Path, encoding: str, *, block_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
    """Yield a file as UTF-8, in blocks that end at a line feed, the last one perhaps without one.

    Text of another encoding is checked as it is decoded; bytes of UTF-8 are passed on as they are. A file whose first
    lines end in carriage returns alone gets line feeds for them.

    Raises:
        TextError: a byte is not of the encoding.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(4)
        found, start = encoding_of(head, encoding)
        file.seek(start)
        decoder = None if found == UTF_8 else codecs.getincrementaldecoder(found)()
        rest, num_lines = b"", 0
        is_mac: bool | None = None  # not known before the first line end
        while True:
            raw = file.read(block_bytes)
            data = raw
            if decoder:
                try:
                    data = decoder.decode(raw, final=not raw).encode()
                except UnicodeDecodeError as error:
                    raise _bad_byte(error, found, num_lines + rest.count(b"\n")) from error
            data = rest + data
            if is_mac is None and (b"\n" in data or b"\r" in data[:-1]):
                is_mac = b"\n" not in data
            if is_mac:
                data = data.replace(b"\r", b"\n")
            end = data.rfind(b"\n") + 1
            block, rest = data[:end], data[end:]
            if block:
                num_lines += block.count(b"\n") if decoder else 0
                yield block
            if not raw:
                if rest:
                    yield rest
                return


def decode_lines(block: bytes, first_line: int) -> str:
    """Decode a block of UTF-8 whose first line has this number.

    Raises:
        TextError: a byte is not of UTF-8.
    """
    try:
        return block.decode()
    except UnicodeDecodeError as error:
        raise _bad_byte(error, UTF_8, first_line - 1) from error


def _bad_byte(error: UnicodeDecodeError, encoding: str, lines_before: int) -> TextError:
    before = error.object[: error.start].decode(encoding, "replace")
    in_line = before.rpartition("\n")[2]
    return TextError(
        f"is not {encoding.upper()}: in line {lines_before + before.count(chr(10)) + 1}, byte "
        f"{len(in_line.encode(encoding, 'replace')) + 1} is 0x{error.object[error.start]:02x}; save it as UTF-8, or "
        "name its encoding in captions.encoding, such as cp1252"
    )


def why_nul(text: str) -> str:
    """Say what text with NUL characters may be."""
    odd, even = text[1::2].count("\0"), text[::2].count("\0")
    says = "holds NUL characters, is it UTF-16? Save it as UTF-8"
    if max(odd, even) > len(text) // 3:
        says += f", or set captions.encoding: utf-16-{'le' if odd >= even else 'be'}"
    return says


def why_no_text(text: str) -> str:
    """Say why a caption is no text: control characters other than tab and line ends, or half a surrogate pair."""
    if text.isprintable():
        return ""
    found = _NO_TEXT.search(text)
    if found is None:
        return ""
    if "\0" in text:
        return why_nul(text)
    code = ord(found[0])
    if 0xD800 <= code <= 0xDFFF:
        return f"holds half of a surrogate pair (\\u{code:04x}), which is no character"
    return f"holds the control character U+{code:04X}"


def is_blank(text: str) -> bool:
    """Whether nothing of the text can be seen: white space, zero width, byte order and direction marks."""
    stripped = text.strip()
    if not stripped or (stripped.isprintable() and stripped[0].isalnum() and stripped[0] not in _BLANKS):
        return not stripped
    return all(unicodedata.category(char) in _INVISIBLE or char in _BLANKS for char in stripped)


def why_blank(text: str) -> str:
    """Say what a text holds of which nothing can be seen; "" if it is white space only."""
    codes = sorted({f"U+{ord(char):04X}" for char in text.strip()})
    return f": it holds only invisible characters ({', '.join(codes[:3])})" if codes else ""
