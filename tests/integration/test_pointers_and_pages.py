"""A file that is no video, text or table is called by what it is, with what helps; a real one is never taken for it."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from sana.data.file_heads import what_it_is
from sana.data.video.probe import probe_video
from sana.data.video.video import ClipRejected
from sana.errors import ConfigError
from tests.downloads import FinishedDownload, context, parquet_of
from tests.source_files import make_files
from tests.video_files import make_video

pytestmark = pytest.mark.timeout(60)

LFS = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'2d' * 32}\nsize 86690301\n".encode()
PAGE = b"<!DOCTYPE html><html><head><style>p {}</style><title>403 Forbidden</title></head></html>"
PULL = "it is a Git LFS pointer (run `git lfs pull` where it is), not a video"


def image(kind: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 30, 40)).save(out, kind)
    return out.getvalue()


def archive(kind: str) -> bytes:
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w") as zipped:
            zipped.writestr("a.mp4", b"x" * 1000)
    else:
        with tarfile.open(fileobj=out, mode="w") as tarred:
            tarred.addfile(tarfile.TarInfo("a.mp4"), io.BytesIO())
    return out.getvalue()


# what a file with a video's name holds -> what its rejection says
CONTENTS: dict[str, tuple[bytes, str]] = {
    "lfs pointer": (LFS, PULL),
    "older lfs pointer": (LFS.replace(b"git-lfs.github.com", b"hawser.github.com"), PULL),
    "annex pointer": (b"/annex/objects/SHA256E-s1048576--0123.mp4\n", "run `git annex get"),
    "annex link": (b"../.git/annex/objects/Wk/1G/SHA256E-s1--0.mp4/SHA256E-s1--0.mp4", "git-annex pointer"),
    "xet pointer": (b"# xet version 0\nfilesize = 5\nhash = '01'\n", "a Git Xet pointer"),
    "html page": (PAGE, "it is an HTML page, not a video: 403 Forbidden"),
    "html without a doctype": (b"\xef\xbb\xbf\r\n <HTML><BODY>Sign in\nto</BODY>", "HTML page, not a video: Sign"),
    "xhtml": (b"<?xml version='1.0'?>\n<!DOCTYPE html><html><body>Quota exceeded", "it is an HTML page"),
    "s3 error": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML page, not a video: AccessD"),
    "json error": (b'{"error": {"code": 404, "message": "Not found"}}', 'JSON, not a video: {"error": {"code": 404'),
    "json list": (b'[\n  {"url": "x"}\n]', "it is JSON, not a video"),
    "plain error": (b"404: Not Found", "it is text, not a video: 404: Not Found"),
    "typescript": (b"import { x } from 'y'\nexport const a = 1\n" * 300, "text, not a video: import { x }"),
    "qt translations": ("<TS version=\u201c2.1\u201d>".encode(), "it is text, not a video"),
    "playlist": (b"#EXTM3U\n#EXTINF:10,\na.ts\n", "it is a playlist (m3u8)"),
    "list of files": (b"ffconcat version 1.0\nfile /etc/passwd\n", "it is text, not a video: ffconcat"),
    "subtitles": (b"1\n00:00:01,000 --> 00:00:02,000\nhello\n", "it is text, not a video: 1 00:00:01"),
    "zip": (archive("zip"), "it is a zip archive (unpack it), not a video"),
    "tar": (archive("tar"), "it is a tar archive (unpack it), not a video"),
    "gzip": (gzip.compress(b"x" * 5000, mtime=0), "it is a gzip file (unpack it), not a video"),
    "bzip2": (bz2.compress(b"x" * 5000), "it is a bzip2 file"),
    "xz": (lzma.compress(b"x" * 5000), "it is an xz file"),
    "rar": (b"Rar!\x1a\x07\x01\x00" + bytes(range(99)), "it is a rar archive"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(range(99)), "it is a 7z archive"),
    "jpeg": (image("JPEG"), "it is a still image (JPEG), not a video"),
    "png": (image("PNG"), "it is a still image (PNG), not a video"),
    "bmp": (image("BMP"), "it is a still image (BMP), not a video"),
    "tiff": (image("TIFF"), "it is a still image (TIFF), not a video"),
    "webp": (image("WEBP"), "it is an image (WebP), not a video"),
    "avif": (image("AVIF"), "it is a still image (AVIF), not a video"),
    "gif of one frame": (image("GIF"), "it is a still image (GIF of one frame), not a video"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "it is a PDF document"),
    "icloud placeholder": (b"bplist00" + bytes(range(99)), "iCloud"),
    "zeros": (bytes(100_000), "it begins with 4096 zeros"),
    "parquet": (parquet_of([{"a": 1}]), "it is a Parquet table"),
    "anything": (bytes(range(256)) * 40, "Invalid data found when processing input"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTENTS)
def test_a_rejection_says_what_the_file_is(tmp_path: Path, name: str) -> None:
    data, says = CONTENTS[name]
    for ending in (".mp4", ".ts"):
        path = tmp_path / f"a{ending}"
        path.write_bytes(data)
        with pytest.raises(ClipRejected) as caught:
            probe_video(path)
        assert says in caught.value.detail and "\n" not in caught.value.detail and len(caught.value.detail) < 160
        assert caught.value.reason in ("unreadable", "no_video")


def test_a_damaged_video_is_not_called_anything_else(tmp_path: Path) -> None:
    for ending, more in {
        ".mp4": {},
        ".mkv": {},
        ".ts": {},
        ".apng": {"codec": "apng", "pixel_format": "rgb24"},
    }.items():
        path = make_video(tmp_path / f"a{ending}", **more)
        assert probe_video(path).num_frames == 25 and not what_it_is(path.read_bytes()[:4096], "a video")
        path.write_bytes(path.read_bytes()[:300])
        with pytest.raises(ClipRejected) as caught:
            probe_video(path)
        assert "it is" not in caught.value.detail


def test_a_list_of_files_is_not_followed(tmp_path: Path) -> None:
    make_video(tmp_path / "secret.mp4")
    (tmp_path / "a.mp4").write_text("ffconcat version 1.0\nfile secret.mp4\n")
    with pytest.raises(ClipRejected, match=r"unreadable: it is a list of other files \(concat\)"):
        probe_video(tmp_path / "a.mp4")


def test_pointers_and_pages_are_no_captions(tmp_path: Path) -> None:
    texts = {"lfs": LFS, "page": PAGE, "zip": archive("zip"), "jpg": image("JPEG")}
    good = {"json": b'{"a": "caption in braces"}', "bmw": b"BMW on a road", "pk": b"PK of a park", "bzh": b"BZh and MM"}
    files = {
        f"{name}.{end}": data for name, text in (texts | good).items() for end, data in (("mp4", name), ("txt", text))
    }
    done = FinishedDownload(context(tmp_path, {"source": str(make_files(tmp_path / "s", files))}))
    assert {path: texts[0] for path, texts in done.captions.items()} == {
        f"{name}.mp4": text.decode() for name, text in good.items()
    }
    assert {path: detail for path, (_, detail) in done.rejected.items()} == {
        "lfs.mp4": "lfs.txt is a Git LFS pointer (run `git lfs pull` where it is), not a text",
        "page.mp4": "page.txt is an HTML page, not a text: 403 Forbidden",
        "zip.mp4": "zip.txt is a zip archive (unpack it), not a text",
        "jpg.mp4": "jpg.txt is a still image (JPEG), not a text",
    }


@pytest.mark.parametrize(
    ("table", "data", "says"),
    [
        (
            "metadata.csv",
            LFS,
            "metadata.csv is a Git LFS pointer (run `git lfs pull` where it is), not a table of captions",
        ),
        ("metadata.jsonl", LFS, "metadata.jsonl is a Git LFS pointer"),
        ("metadata.parquet", LFS, "metadata.parquet is a Git LFS pointer"),
        ("metadata.csv", PAGE, "metadata.csv is an HTML page, not a table of captions: 403 Forbidden"),
        ("metadata.csv", archive("zip"), "metadata.csv is a zip archive"),  # an .xlsx is one
        ("metadata.csv", gzip.compress(b"file_name,text\na.mp4,x\n", mtime=0), "metadata.csv is a gzip file"),
        ("metadata.csv", parquet_of([{"file_name": "a.mp4", "text": "x"}]), "metadata.csv is a Parquet table"),
        ("metadata.jsonl", b"<html><title>Rate limited", "metadata.jsonl is an HTML page"),
    ],
)
def test_a_table_that_is_a_pointer_or_a_page_is_one_line(tmp_path: Path, table: str, data: bytes, says: str) -> None:
    at = context(tmp_path, {"source": str(make_files(tmp_path / "s", {"a.mp4": "1", table: data}))})
    with pytest.raises(ConfigError) as caught:
        FinishedDownload(at)
    assert says in str(caught.value) and "\n" not in str(caught.value)
    good = parquet_of([{"file_name": "a.mp4", "text": "x"}])
    (tmp_path / "s" / table).unlink()
    make_files(tmp_path / "s", {"metadata.parquet": good})
    assert FinishedDownload(at).captions == {"a.mp4": ["x"]}
