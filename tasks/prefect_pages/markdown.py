"""Markdown as Prefect's pages show it. What users named is text there, whatever it holds."""

import re
from collections.abc import Sequence
from urllib.parse import quote, urlsplit

_MEANS_SOMETHING = r"[\\`*_{}\[\]<>()|~&!@$:#]|^[-+](?= )|(?<=^\d)\.(?= )"
# Prefect's new pages look for addresses in text whose escapes are gone: a comment, which is not shown, keeps them apart
_MAKES_A_LINK = r"(?i)(?<=http)\\:(?=//)|(?<=https)\\:(?=//)|(?<=www)\.|(?<=\S)\\@"
_NOTHING = "<!-- -->"
_MOST_CHARS = 300  # of a cell
_MOST_OF_AN_ERROR, _MOST_LINES = 2000, 20  # characters of one of its lines; lines after the first


def text(value: object, *, most: int = _MOST_CHARS) -> str:
    """Return a value as text on one line in which no character means anything to markdown or HTML."""
    line = " ".join("".join(char if char.isprintable() else " " for char in str(value)).split())
    line = line if len(line) <= most else f"{line[: most - 3]}..."
    escaped = re.sub(_MEANS_SOMETHING, lambda found: f"\\{found[0]}", line)
    return re.sub(_MAKES_A_LINK, lambda found: f"{_NOTHING}{found[0]}", escaped)


def link(label: str, url: str) -> str:
    """Return a link, or the label alone where the address is none of the web's."""
    try:
        parts = urlsplit(url)
    except ValueError:  # such as half an IPv6 address
        return text(label)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        return text(label)
    return f"[{text(label)}](<{quote(url, safe=':/?#@!$&*+,;=%-._~')}>)"


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[str] = ()) -> str:
    """Return a table of cells that are markdown already; columns named in `numbers` are set to the right."""
    ruler = ["---:" if title in numbers else "---" for title in titles]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, ruler, *rows))


def trouble(message: str) -> str:
    """Return an error's message: its first line in bold, and a list of the others."""
    lines = [line for line in message.splitlines() if line.strip()]
    if not lines:
        return ""
    others = "\n".join(f"- {text(line, most=_MOST_OF_AN_ERROR)}" for line in lines[1 : 1 + _MOST_LINES])
    return joined([f"**{text(lines[0], most=_MOST_OF_AN_ERROR)}**", others]).rstrip()


def joined(parts: Sequence[str]) -> str:
    """Return a page of the parts that say something."""
    return "\n\n".join(part for part in parts if part) + "\n"
