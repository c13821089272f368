"""HTML and numbers as text. All that comes from outside passes `text` or `name`: names of files are not trusted."""

import html
import math
from collections.abc import Iterable, Sequence

MAX_NAME_CHARS = 300


def text(value: object) -> str:
    """Escape for HTML, in text and in quoted attributes."""
    return html.escape(str(value), quote=True)


def name(value: str, *, limit: int = MAX_NAME_CHARS) -> str:
    """Escape what users wrote: what has no glyph, or turns the text around it, is spelled; the end is kept if long."""
    if len(value) > limit:
        value = f"{value[: limit // 2]} \u2026 {value[-(limit // 2) :]}"
    spelled = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)
    return text(spelled)


def number(value: float) -> str:
    """Write a whole number with thousands separated: 1,234,567."""
    return f"{value:,.0f}"


def compact(value: float) -> str:
    """Write a number in at most five characters: 950, 12.3k, 1.2M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= limit:
            scaled = value / (1e3 if unit == "k" else limit)
            return f"{scaled:.0f}{unit}" if scaled >= 100 else f"{scaled:.3g}{unit}"
    return f"{value:.4g}"


def percent(part: float, whole: float) -> str:
    """Write a share; never 0 % or 100 % of something that is not."""
    if not whole:
        return "0 %"
    share = 100.0 * part / whole
    if 0 < share < 0.1:
        return "< 0.1 %"
    if 99.9 < share < 100:
        return "> 99.9 %"
    written = f"{share:.1f}"
    return f"{share:.0f} %" if written in ("0.0", "100.0") else f"{written} %"


def size(num_bytes: float) -> str:
    """Write bytes in binary units."""
    if num_bytes < 1024:
        return f"{num_bytes:.0f} B"
    power = min(5, int(math.log(num_bytes, 1024)))
    scaled = num_bytes / 1024**power
    return f"{scaled:.0f} {'KMGTP'[power - 1]}iB" if scaled >= 100 else f"{scaled:.3g} {'KMGTP'[power - 1]}iB"


def duration(seconds: float) -> str:
    """Write seconds in the two units that matter."""
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{number(hours // 24)} d {hours % 24} h"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[int] = (), kind: str = "") -> str:
    """Lay out cells that are HTML already; `right` are the columns of numbers."""
    aligned = frozenset(right)

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f'<{tag} class="n">{cell}</{tag}>' if place in aligned else f"<{tag}>{cell}</{tag}>"
            for place, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{line(row, 'td')}</tr>\n" for row in rows)
    return f'<table class="{kind}"><thead><tr>{line(head, "th")}</tr></thead><tbody>\n{body}</tbody></table>'


def bar(parts: Iterable[tuple[str, float, str]], whole: float) -> str:
    """Draw a horizontal bar of (class, value, tooltip) on the scale where `whole` is the full width."""
    pieces = "".join(
        f'<i class="{kind}" style="width:{100 * value / whole:.3f}%" title="{text(tip)}"></i>'
        for kind, value, tip in parts
        if whole > 0 and value > 0
    )
    return f'<span class="bar">{pieces}</span>'


def tile(label: str, value: str, about: str) -> str:
    """One number of the summary."""
    return f'<div class="tile"><span>{text(label)}</span><b>{text(value)}</b><small>{text(about)}</small></div>'


def panel(title: str, about: str, content: str, *, kind: str = "") -> str:
    """A titled box within a section."""
    return f'<div class="panel {kind}"><h3>{text(title)}</h3><p class="about">{about}</p>{content}</div>'


def section(anchor: str, title: str, lead: str, content: str) -> str:
    """A part of the page; `lead` and `content` are HTML."""
    return f'<section id="{anchor}"><h2>{text(title)}</h2><p class="lead">{lead}</p>{content}</section>'
