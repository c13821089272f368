"""Tar and zip archives: their members in the order of their bytes, each digested as it passes, and one member's bytes.

Nothing is ever written under a name that an archive gives.
"""

import bz2
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO

from sana.data.archives.members import STORED, Digester, Member, clean_name, holds_text, of_archive
from sana.data.sources.listing import is_hidden, is_picture, is_video
from sana.wording import in_units

READ_BYTES = 8 * 2**20
MAX_HEADER_BYTES = 64 * 2**20  # of a tar's extended header: a real one has hundreds
DEFLATED, BZIP2 = zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2

_BROKEN = (EOFError, zlib.error, tarfile.TarError, struct.error)
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_TAR_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}


class DamagedError(Exception):
    """The bytes of a member are not there, or not what the archive says of them; the message says which, in words."""


def unpacked(file: IO[bytes], member: Member) -> Iterator[bytes]:
    """Yield the bytes of a member of a tar or a zip, block by block: never more than it declares.

    Raises:
        DamagedError: it is cut off, cannot be decompressed, or has another length than declared.
    """
    file.seek(member.start)
    blocks = _stored_blocks(file, member.stored_bytes)
    if member.method == DEFLATED:
        blocks = _inflated(blocks)
    elif member.method == BZIP2:
        blocks = _bunzipped(blocks)
    num_bytes = 0
    for block in blocks:
        num_bytes += len(block)
        if num_bytes > member.num_bytes:
            raise DamagedError(f"it unpacks to more than the {in_units(member.num_bytes)} that it declares")
        yield block
    if num_bytes < member.num_bytes:
        raise DamagedError(f"it has {num_bytes} bytes of the {member.num_bytes} that it declares")


def _stored_blocks(file: IO[bytes], num_bytes: int) -> Iterator[bytes]:
    while num_bytes:
        try:
            block = file.read(min(READ_BYTES, num_bytes))
        except _BROKEN as error:
            raise DamagedError(f"the archive is damaged here: {error}") from error
        if not block:
            raise DamagedError("the archive is cut off within it")
        num_bytes -= len(block)
        yield block


def _inflated(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress deflated blocks into blocks of READ_BYTES at most, whatever the ratio is."""
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for block in blocks:
            rest = block
            while rest and not decompressor.eof:
                yield decompressor.decompress(rest, READ_BYTES)
                rest = decompressor.unconsumed_tail
        yield decompressor.flush()
    except zlib.error as error:
        raise DamagedError(f"it cannot be decompressed: {error}") from error


def _bunzipped(blocks: Iterator[bytes]) -> Iterator[bytes]:
    decompressor = bz2.BZ2Decompressor()
    for block in blocks:
        rest = block
        while not decompressor.eof and (rest or not decompressor.needs_input):
            try:
                more = decompressor.decompress(rest, READ_BYTES)
            except OSError as error:
                raise DamagedError(f"it cannot be decompressed: {error}") from error
            yield more
            rest = b""


def _digested(file: IO[bytes], member: Member, digester: Digester, method: str, crc: int | None = None) -> Member:
    """Return the member with its digest, and its text if it may hold captions.

    Raises:
        DamagedError: see `unpacked`; or its checksum is another than `crc`.
    """
    hasher, found, texts = digester(), 0, []
    keep = holds_text(member.name, member.num_bytes)
    for block in unpacked(file, member):
        hasher.update(block)
        if crc is not None:
            found = zlib.crc32(block, found)
        if keep:
            texts.append(block)
    if crc is not None and found != crc:
        raise DamagedError("its bytes do not have the checksum that the archive states")
    text = b"".join(texts) if keep else None
    return Member(
        member.name,
        member.start,
        member.stored_bytes,
        member.num_bytes,
        member.method,
        f"{method}:{hasher.hexdigest()}",
        text=text,
    )


class _Headers:
    """A file for `tarfile` that refuses to read a header of gigabytes into memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, num_bytes: int) -> bytes:
        if num_bytes > MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {in_units(num_bytes)}")
        return self._file.read(num_bytes)


def scan_tar(file: IO[bytes], digester: Digester, method: str) -> Iterator[Member]:
    """Yield the members of a tar that are files, and last, if it does not end as it should, what is wrong with it."""
    known: dict[str, tuple[int, int]] = {}  # where the bytes of each file are, for hard links
    last = "its beginning"
    try:
        archive = tarfile.TarFile(fileobj=_Headers(file), errors="surrogateescape")  # type: ignore[arg-type]
        at = -1
        while (info := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # it would keep them all
            if info.size < 0 or archive.offset <= at:
                raise tarfile.ReadError("a member of negative size")
            at = archive.offset
            for member in _tar_member(file, info, known, digester, method):
                yield member
                last = f"{member.name}"
        file.seek(archive.offset)
        if any(file.read(tarfile.BLOCKSIZE)):
            raise tarfile.ReadError("no member begins there")
    except DamagedError:
        yield of_archive(f"it is cut off or damaged after {last}, within the next member")
    except _BROKEN as error:
        why = "it is no tar archive" if last == "its beginning" else f"it is cut off or damaged after {last}"
        yield of_archive(f"{why}: {error or type(error).__name__}")


def _tar_member(
    file: IO[bytes], info: tarfile.TarInfo, known: dict[str, tuple[int, int]], digester: Digester, method: str
) -> Iterator[Member]:
    name, trouble = clean_name(info.name)
    if info.isdir() or (not trouble and is_hidden(name)):
        return
    start, num_bytes = info.offset_data, info.size
    if not trouble and info.islnk():
        target = known.get(clean_name(info.linkname)[0])
        if target is None:
            trouble = f"a hard link to {info.linkname!r}, which is not in the archive before it"
        else:
            start, num_bytes = target
    elif not trouble and info.issparse():
        trouble = "a sparse member, which is not read; pack it without --sparse"
    elif not trouble and not info.isreg():
        trouble = f"{_TAR_KINDS.get(info.type, 'not a file')}, which is not followed"
    if not trouble:
        known[name] = start, num_bytes
        yield _digested(file, Member(name, start, num_bytes, num_bytes), digester, method)
    elif is_video(name) or is_picture(name):
        yield Member(name, trouble=trouble)


def scan_zip(file: IO[bytes], digester: Digester, method: str) -> Iterator[Member]:
    """Yield the members of a zip that are files; or one row that says why it cannot be read."""
    try:
        archive = zipfile.ZipFile(file)
        infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    except UnicodeDecodeError:
        yield of_archive("a name in it says that it is UTF-8, and is not; pack it again")
        return
    except (zipfile.BadZipFile, NotImplementedError, *_BROKEN) as error:
        yield of_archive(f"it is no zip archive, or its end is missing, where the list of its members is: {error}")
        return
    end = 0
    for info in infos:
        name, trouble = clean_name(_zip_name(info))
        if info.is_dir() or name.endswith("/") or (not trouble and is_hidden(name)):
            continue
        member = Member(name, info.header_offset, info.compress_size, info.file_size, info.compress_type)
        trouble = trouble or _why_unread(info)
        if not trouble and info.header_offset < end:
            trouble = "its bytes overlap those of another member, as in a zip bomb"
        if not trouble:
            try:
                member = _digested(file, _at_data(file, member), digester, method, info.CRC)
                end = max(end, member.start + member.stored_bytes)
            except DamagedError as error:
                trouble = str(error)
        if not trouble:
            yield member
        elif is_video(name) or is_picture(name):
            yield Member(name, trouble=trouble)


def _zip_name(info: zipfile.ZipInfo) -> str:
    """Return the name as it was meant: UTF-8 that is not marked as such, and the backslashes of some Windows tools."""
    name = info.orig_filename
    if not info.flag_bits & 0x800:
        try:
            name = name.encode("cp437").decode("utf-8")
        except UnicodeError:
            name = info.orig_filename
    return name.replace("\\", "/")


def _why_unread(info: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "a symbolic link, which is not followed"
    if kind not in (0, stat.S_IFREG):
        return "a device or a pipe, not a file"
    if info.flag_bits & 0x1:
        return "it is encrypted; pack it without a password"
    if info.compress_type not in (STORED, DEFLATED, BZIP2):
        name = zipfile.compressor_names.get(info.compress_type, "unknown")  # type: ignore[attr-defined]
        return f"its compression, {name} (method {info.compress_type}), is not read; pack it stored or deflated"
    return ""


def _at_data(file: IO[bytes], member: Member) -> Member:
    """Return the member with the place of its bytes, which follow a header of its own."""
    file.seek(member.start)
    header = file.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
        raise DamagedError("the archive is damaged where it begins")
    _, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
    start = member.start + _LOCAL_HEADER.size + name_bytes + extra_bytes
    return Member(member.name, start, member.stored_bytes, member.num_bytes, member.method)
