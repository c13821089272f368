"""The data report as a browser would see it, and a run of the demo with hostile names to report on."""

import base64
import hashlib
import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

from sana.report.states import StageState
from tests.pipeline_runs import Outcome, Place, inline_workers, new_place, run_stages

HOSTILE = "bunny-<script>alert(1)<script>\n\u202e\"'&.mp4"
CAPTION = '</script><img src=http://evil.example/x onerror="alert(2)">\na second <b>caption</b>'


def run_with_hostile_names(folder: Path) -> tuple[Place, Outcome]:
    """The demo's clips up to their buckets, one more whose name and captions are hostile, and one that is rejected."""
    place = new_place(folder, folder / "none")
    shutil.copy(place.clips / "bunny-00.mp4", place.clips / HOSTILE)
    (place.clips / HOSTILE).with_suffix(".txt").write_text("a rabbit")
    for text in place.clips.glob("*.txt"):
        text.write_text(f"{text.read_text()}\n{CAPTION}")
    (place.clips / HOSTILE.replace("bunny", "nobody")).write_bytes(b"")
    (place.clips / HOSTILE).with_suffix(".<i>webp").write_bytes(b"nothing reads it")
    with inline_workers():
        return place, run_stages(place.context("probe.duplicates=keep"), last="bucket")


def states_of(outcome: Outcome, *names: str) -> list[StageState]:
    """The state of every stage that prepares data; those not named, where any is, have not run."""
    every = ("download", "probe", "bucket", "encode_captions", "encode_latents")
    wanted = names or every
    return [
        StageState(name, "committed", outcome.artifacts[name])
        if name in outcome.artifacts and name in wanted
        else StageState(name, "not run", why="waits")
        for name in every
    ]


class Page(HTMLParser):
    """The elements of a page, as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words = ""
        self._inside = ""
        self.feed(text)
        self.close()
        self.words = " ".join(self.words.split())  # a browser shows a line's end in the source as a space

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.words += data

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""


def assert_harmless(text: str) -> Page:
    """One script, the page's own; nothing that loads or runs; no address anywhere but in quoted text."""
    page = Page(text)
    own = "".join(page.scripts)
    assert [tag for tag, _ in page.tags].count("script") == 1
    digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert f"script-src 'sha256-{digest}'" in str(policy) and "default-src 'none'" in str(policy)
    for tag, attrs in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "form", "base", "a"), tag
        assert not [key for key in attrs if key.startswith("on") or key in ("href", "action", "srcdoc", "xlink:href")]
        assert str(attrs.get("src", "data:")).startswith("data:")
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style and "url(" not in text and "@import" not in style[1] and "http" not in style[1] + own
    return page


def thumbnails_of(text: str) -> list[Image.Image]:
    """Decode the pictures of a page; each must be small."""
    found = [base64.b64decode(data) for data in re.findall(r"data:image/jpeg;base64,([^\"]+)", text)]
    assert all(len(data) <= 6 * 1024 for data in found)
    return [Image.open(io.BytesIO(data)) for data in found]
