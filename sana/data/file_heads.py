"""What a file is whose ending promised something else, by its first bytes: a pointer, a page, an archive, a picture.

One place, for videos that libav does not open, for texts and for tables of captions.
"""

import re
from pathlib import Path

HEAD_BYTES = 4096
_SHOWN_CHARS = 60

_GIT_LFS = re.compile(rb"version https?://\S+/spec/v\d")
_OTHER_POINTERS = (
    (re.compile(rb"(\.\./)*(/|\.git/)annex/objects/\S+\s*\Z"), "git-annex", "git annex get ."),
    (re.compile(rb"# xet version \d"), "Git Xet", "git xet checkout"),
)
_HTML = re.compile(rb"<!doctype html|<(html|head|body|title|script)\b", re.IGNORECASE)
_TAGS = re.compile(r"<(script|style)\b.*?(</\1>|\Z)|<[^>]*(>|\Z)", re.DOTALL | re.IGNORECASE)
_XML = re.compile(rb"<\?xml\b|<Error>", re.IGNORECASE)
_MAGIC: tuple[tuple[bytes, str], ...] = (  # patterns at the start, of which no text has any
    (rb"PK\x03\x04", "a zip archive"),
    (rb"\x1f\x8b", "a gzip file"),
    (rb"BZh[1-9]1AY&SY", "a bzip2 file"),
    (rb"\xfd7zXZ\0", "an xz file"),
    (rb"\x28\xb5\x2f\xfd", "a zstd file"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (rb"Rar!\x1a\x07", "a rar archive"),
    (rb".{257}ustar", "a tar archive"),
    (rb"\xff\xd8\xff", "a still image (JPEG)"),
    (rb"\x89PNG\r\n\x1a\n(?!.*acTL)", "a still image (PNG)"),  # with acTL it moves
    (rb"BM.{4}\0\0\0\0", "a still image (BMP)"),
    (rb"(II\*\0|MM\0\*)", "a still image (TIFF)"),
    (rb"RIFF.{4}WEBP", "an image (WebP)"),
    (rb".{4}ftyp(heic|heix|mif1)", "a still image (HEIC)"),
    (rb".{4}ftypavif", "a still image (AVIF)"),
    (rb"%PDF-", "a PDF document"),
    (rb"\x7fELF|MZ\x90\0", "a program"),
    (rb"bplist00", "a property list, as iCloud leaves of a file that is not on this machine"),
    (rb"SQLite format 3\0", "a SQLite database"),
    (rb"PAR1", "a Parquet table"),
)
_ANY_KIND = re.compile(b"|".join(b"(?:%b)" % pattern for pattern, _ in _MAGIC), re.DOTALL)  # one pass over most texts
_KINDS = tuple((re.compile(pattern, re.DOTALL), kind) for pattern, kind in _MAGIC)


def head_of(path: Path) -> bytes:
    """Return the first bytes of a file, as many as `what_it_is` looks at. Raises OSError: it is not readable."""
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def what_it_is(head: bytes, wanted: str, *, text_is_fine: bool = False) -> str:
    """Say what a file is instead of what was `wanted` ("a video"), and what to do; "" if its head does not tell.

    `text_is_fine`: JSON and other text are what may be there, as in a file of captions.
    """
    if found := _pointer(head):
        name, command = found
        return f"it is a {name} pointer (run `{command}` where it is), not {wanted}"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if _HTML.match(text):
        return f"it is an HTML page, not {wanted}{_words(text)}"
    if _XML.match(text):
        kind = "an HTML page" if _HTML.search(text) else "an XML page"
        return f"it is {kind}, not {wanted}{_words(text)}"
    if _ANY_KIND.match(head):
        kind = next(kind for pattern, kind in _KINDS if pattern.match(head))
        unpack = " (unpack it)" if kind.endswith(("archive", "file")) else ""
        return f"it is {kind}{unpack}, not {wanted}"
    if len(head) > 16 and not any(head):
        return f"it begins with {len(head)} zeros, not as {wanted}: its space was reserved, and it was never written"
    return "" if text_is_fine else _text(text, wanted)


def _pointer(head: bytes) -> tuple[str, str] | None:
    """Return (whose pointer it is, the command that fetches the file)."""
    if _GIT_LFS.match(head):
        return "Git LFS", "git lfs pull"
    return next(((name, command) for known, name, command in _OTHER_POINTERS if known.match(head)), None)


def _text(text: bytes, wanted: str) -> str:
    """Say that it is text, where it is."""
    if text.startswith(b"#EXTM3U"):
        return f"it is a playlist (m3u8), which only names videos, not {wanted}"
    if text[:1] in b"{[" and re.match(rb'[{\[]\s*(["{}\[\]\d]|null|true|false)', text):
        return f"it is JSON, not {wanted}{_words(text)}"
    try:
        shown = text[:-3].decode() if len(text) >= HEAD_BYTES - 3 else text.decode()  # a letter may be cut in two
    except UnicodeDecodeError as error:
        if error.end < len(text) - 3:
            return ""
        shown = text[: error.start].decode()
    is_text = bool(shown) and all(letter.isprintable() or letter in "\t\r\n\f" for letter in shown)
    return f"it is text, not {wanted}{_words(text)}" if is_text else ""


def _words(text: bytes) -> str:
    """Quote the first words that a reader would see."""
    shown = _TAGS.sub(" ", text.decode("utf-8", "replace"))
    words = " ".join("".join(letter if letter.isprintable() else " " for letter in shown).split())
    if not words:
        return ""
    return f": {words[:_SHOWN_CHARS]}{'...' if len(words) > _SHOWN_CHARS else ''}"
