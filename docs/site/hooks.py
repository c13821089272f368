"""What mkdocs does beside rendering docs/: pages of the project's other texts, and links that leave docs/."""

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# page of the site: the text in the repository that it is made of
PAGES = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "examples.md": "examples/README.md",
}
_CELL = re.compile(r"(?<=<td>)[^<]*(?:<code>[^<]*</code>)?[^<]*(?=</td>)")
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made of texts outside of docs/."""
    from mkdocs.structure.files import File

    for page, source in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=relinked(text, folder=posixpath.dirname(source))))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links out of docs/ into links to their page of the site or, where there is none, into the path as text."""
    return markdown if page.file.src_uri in PAGES else relinked(markdown, folder="docs")


def on_page_content(html: str, **_: Any) -> str:
    """Leave out what click calls a default that is none; let long names in tables break where a word of them ends."""
    return _CELL.sub(_breakable, html.replace("<code>Sentinel.UNSET</code>", ""))


def _breakable(cell: re.Match[str]) -> str:
    return re.sub(r"(?<=\w)([._])(?=[\w*])|(?<=\*)(\.)(?=\w)", r"\g<0><wbr>", cell[0])


def relinked(text: str, *, folder: str) -> str:
    """Return a text of a folder of the repository with its links as the site has them."""
    pages = {source: page for page, source in PAGES.items()}

    def link(found: re.Match[str]) -> str:
        words, target = found.groups()
        path, mark, anchor = target.partition("#")
        if "://" in target or not path:
            return found[0]
        place = posixpath.normpath(posixpath.join(folder, path))
        if place.startswith("docs/"):
            return f"[{words}]({place.removeprefix('docs/')}{mark}{anchor})"
        if place in pages:
            return f"[{words}]({pages[place]}{mark}{anchor})"
        return f"{words} (`{place}`)"

    return _LINK.sub(link, text)
