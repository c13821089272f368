"""Archives that are damaged, hostile or merely odd: what can be read is read, the rest is rejected by name."""

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.downloads import FinishedDownload, context
from tests.packed_files import embedded, tar_member, tar_of, zip_of
from tests.source_files import make_files

pytestmark = pytest.mark.timeout(60)

A, B = {"a.mp4": b"video a" * 100, "a.txt": b"a cat"}, {"b.mp4": b"video b" * 100, "b.txt": b"a dog"}
AB = {**A, **B}


def patched(data: bytes, *changes: tuple[bytes, bytes]) -> bytes:
    """Replace every occurrence of each first by its second."""
    for old, new in changes:
        assert old in data and len(old) == len(new)
        data = data.replace(old, new)
    return data


def zip_with(change: Callable[[zipfile.ZipInfo], None], name: str = "b.mp4") -> bytes:
    """A zip of A and of one more member, whose entry is changed after it was written."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path, data in A.items():
            archive.writestr(path, data)
        info = zipfile.ZipInfo(name)
        archive.writestr(info, B["b.mp4"])
        change(archive.getinfo(info.filename))
    return out.getvalue()


def encrypted(info: zipfile.ZipInfo) -> None:
    info.flag_bits |= 1


def of_method(method: int) -> Callable[[zipfile.ZipInfo], None]:
    return lambda info: setattr(info, "compress_type", method)


def symlink(info: zipfile.ZipInfo) -> None:
    info.external_attr = 0o120777 << 16


def overlapping(info: zipfile.ZipInfo) -> None:
    info.header_offset = 0


def bomb() -> bytes:
    """A zip whose member declares 700 bytes and inflates to 64 MiB."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in A.items():
            archive.writestr(path, data)
        archive.writestr("b.mp4", bytes(64 * 2**20))
        archive.getinfo("b.mp4").file_size = 700
    return out.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"
ROWS = embedded(
    [{"video": {"bytes": data, "path": path}, "text": "x"} for path, data in AB.items() if path.endswith(".mp4")],
    rows_per_group=1,
    checksums=True,
)
TAR, ZIP = tar_of(AB), zip_of(AB)
# case -> (name of the archive, its bytes, captions by path, {rejected path: what the reason says})
CASES: dict[str, tuple[str, bytes, list[str], dict[str, str]]] = {
    "tar: a path that leads out": ("x.tar", tar_of({**A, "../b.mp4": b"b"}), ["a.mp4"], {"x.tar/../b.mp4": "'..'"}),
    "tar: '..' inside": ("x.tar", tar_of({**A, "c/../../b.mp4": b"b"}), ["a.mp4"], {"x.tar/c/../../b.mp4": "'..'"}),
    "tar: an absolute path": ("x.tar", tar_of({**A, "/b.mp4": b"b"}), ["a.mp4"], {"x.tar//b.mp4": "absolute"}),
    "tar: not UTF-8": (
        "x.tar",
        tar_of({**A, "b\udcffb.mp4": b"b"}),
        ["a.mp4"],
        {"x.tar/b\\xffb.mp4": "not UTF-8"},
    ),
    "tar: a symbolic link": (
        "x.tar",
        tar_of(A, members=[tar_member("b.mp4", tarfile.SYMTYPE, link="/etc/passwd")]),
        ["a.mp4"],
        {"x.tar/b.mp4": "symbolic link"},
    ),
    "tar: a device and a pipe": (
        "x.tar",
        tar_of(A, members=[tar_member("b.mp4", tarfile.CHRTYPE), tar_member("c.mp4", tarfile.FIFOTYPE)]),
        ["a.mp4"],
        {"x.tar/b.mp4": "a device", "x.tar/c.mp4": "a pipe"},
    ),
    "tar: a hard link is the file": (
        "x.tar",
        tar_of(A, members=[tar_member("b.mp4", tarfile.LNKTYPE, link="a.mp4"), tar_member("c.mp4", tarfile.LNKTYPE)]),
        ["a.mp4"],
        {"b.mp4": "no b.txt", "x.tar/c.mp4": "a hard link to ''"},
    ),
    "tar: cut in a member": ("x.tar", TAR[: TAR.index(b"video b") + 300], ["a.mp4"], {"x.tar": "cut off"}),
    "tar: cut in a header": ("x.tar", TAR[: TAR.index(b"b.mp4") + 200], ["a.mp4"], {"x.tar": "after a.txt"}),
    "tar: garbage in a header": (
        "x.tar",
        patched(TAR, (b"b.mp4\0", b"b.mp5\0")),
        ["a.mp4"],
        {"x.tar": "damaged after a.txt"},
    ),
    "tar: without its end mark": ("x.tar", TAR[:5120], ["a.mp4", "b.mp4"], {}),
    "tar: a page": ("x.tar", b"<html>404</html>" * 100, [], {"x.tar": "an HTML page, not a tar archive: 404"}),
    "tar: a pointer": (
        "x.tar",
        LFS,
        [],
        {"x.tar": "Git LFS pointer (run `git lfs pull` where it is), not a tar archive"},
    ),
    "tar: zipped": ("x.tar", tar_of(AB, zipped=True), [], {"x.tar": "a gzip file (unpack it), not a tar archive"}),
    "tar: noise": ("x.tar", b"\xfe\xed" * 1000, [], {"x.tar": "no tar archive"}),
    "tar: empty file": ("x.tar", b"", [], {"x.tar": "it is an empty file (0 bytes)"}),
    "zip: empty file": ("x.zip", b"", [], {"x.zip": "it is an empty file (0 bytes)"}),
    "parquet: empty file": ("x.parquet", b"", [], {"x.parquet": "it is an empty file (0 bytes)"}),
    "tar.gz: empty file": ("x.tgz", b"", [], {"x.tgz": "it is an empty file (0 bytes)"}),
    "parquet: a row without its video": (
        "x.parquet",
        embedded([{"video": {"bytes": b"a", "path": "a.mp4"}, "text": "x"}, {"video": None, "text": "y"}]),
        ["a.mp4"],
        {"row 2 of the rows of x.parquet": "it names no video"},
    ),
    "tar.gz: cut": ("x.tgz", tar_of(AB, zipped=True)[:-100], [], {"x.tgz": "cut off", "a.mp4": "no a.txt"}),
    "tar.gz: not one": ("x.tar.gz", b"\xfe\xed" * 99, [], {"x.tar.gz": "ot a gzip"}),
    "tar.gz: another zip in it": ("x.tgz", gzip.compress(ZIP), [], {"x.tgz": "no tar archive"}),
    "tar: a name twice": (
        "x.tar",
        tar_of(AB, again={"a.mp4": b"later"}),
        ["a.mp4", "b.mp4"],
        {"x.tar#0/a.mp4": "later member"},
    ),
    "tar: hidden files": ("x.tar", tar_of({**A, ".b.mp4": b"b", "__MACOSX/._a.mp4": b"b", "./c/": b""}), ["a.mp4"], {}),
    "zip: encrypted": ("x.zip", zip_with(encrypted), ["a.mp4"], {"x.zip/b.mp4": "encrypted"}),
    "zip: an unknown compression": ("x.zip", zip_with(of_method(97)), ["a.mp4"], {"x.zip/b.mp4": "method 97"}),
    "zip: lzma": ("x.zip", zip_with(of_method(14)), ["a.mp4"], {"x.zip/b.mp4": "lzma"}),
    "zip: not deflated as it says": ("x.zip", zip_with(of_method(8)), ["a.mp4"], {"x.zip/b.mp4": "decompressed"}),
    "zip: a symbolic link": ("x.zip", zip_with(symlink), ["a.mp4"], {"x.zip/b.mp4": "symbolic link"}),
    "zip: overlapping members": ("x.zip", zip_with(overlapping), ["a.mp4"], {"x.zip/b.mp4": "overlap"}),
    "zip: a bomb": ("x.zip", bomb(), ["a.mp4"], {"x.zip/b.mp4": "more than the 700 B"}),
    "zip: a path that leads out": ("x.zip", zip_of({**A, "../b.mp4": b"b"}), ["a.mp4"], {"x.zip/../b.mp4": "'..'"}),
    "zip: a drive": ("x.zip", zip_of({**A, "C:\\b.mp4": b"b"}), ["a.mp4"], {"x.zip/C:/b.mp4": "absolute"}),
    "zip: backslashes are folders": ("x.zip", zip_of({"d\\a.mp4": b"a", "d\\a.txt": b"cat"}), ["d/a.mp4"], {}),
    "zip: a wrong checksum": (
        "x.zip",
        patched(ZIP, (b"video b" * 50, b"video X" * 50)),
        ["a.mp4"],
        {"x.zip/b.mp4": "checksum"},
    ),
    "zip: cut": ("x.zip", ZIP[:-30], [], {"x.zip": "no zip archive, or its end is missing"}),
    "zip: a name twice": (
        "x.zip",
        zip_of(AB, again={"a.mp4": b"later"}),
        ["a.mp4", "b.mp4"],
        {"x.zip#0/a.mp4": "later member"},
    ),
    "zip: names in UTF-8 that is not marked": (
        "x.zip",
        patched(zip_of({"\u00e9.mp4": b"e", "\u00e9.txt": b"cat"}), (b"\x00\x08", b"\x00\x00")),
        ["\u00e9.mp4"],
        {},
    ),
    "zip: a pointer": ("x.zip", LFS, [], {"x.zip": "(run `git lfs pull` where it is), not a zip archive"}),
    "parquet: a pointer": (
        "x.parquet",
        LFS,
        [],
        {"x.parquet": "(run `git lfs pull` where it is), not a Parquet table"},
    ),
    "parquet: cut": ("x.parquet", ROWS[:-50], [], {"x.parquet": "no Parquet file"}),
    "parquet: damaged in a page": (
        "x.parquet",
        patched(ROWS, (b"video b" * 50, bytes(350))),
        ["a.mp4"],
        {"x.parquet": "damaged after row 1"},
    ),
    "parquet: a path that leads out": (
        "x.parquet",
        embedded([{"video": {"bytes": b"b", "path": "../b.mp4"}, "text": "x"}]),
        [],
        {"x.parquet/../b.mp4": "'..'"},
    ),
    "parquet: not one": ("x.parquet", b"PAR1 but not really", [], {"x.parquet": "no Parquet file"}),
}


@pytest.mark.parametrize("case", list(CASES))
def test_what_can_be_read_is_read_and_the_rest_is_rejected(tmp_path: Path, case: str) -> None:
    name, data, clips, rejected = CASES[case]
    folder = make_files(tmp_path / "s/in", {name: data})
    found = FinishedDownload(context(tmp_path, {"source": str(folder)}))
    assert sorted(found.captions) == clips
    assert sorted(found.rejected) == sorted(rejected)
    for path, says in rejected.items():
        reason, detail = found.rejected[path]
        assert says in detail and reason in ("unreadable", "no_caption", "missing")
    assert sorted(path.name for path in (tmp_path / "s").rglob("*")) == sorted(["in", name]), "nothing is written there"
    assert {path.name for path in tmp_path.iterdir()} == {"s", "root", "work"}
