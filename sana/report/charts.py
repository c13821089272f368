"""Charts as inline SVG. Colours are classes of the page's style, so that they follow its light or dark scheme."""

from collections.abc import Sequence

from sana.bucket import Bucket
from sana.report.flow import Step
from sana.report.histogram import Histogram, nice_step
from sana.report.html import compact, number, percent, text
from sana.report.videos import Size

_LEAST = 1.5  # pixels: what is there is seen


def _svg(width: float, height: float, content: str, about: str) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{text(about)}" '
        f'style="max-width:{width:g}px">{content}</svg>'
    )


def _label(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{text(words)}</text>'


def bars(labels: Sequence[str], values: Sequence[int], *, unit: str, width: int = 520, height: int = 190) -> str:
    """Draw one bar a label; there are few."""
    left, right, bottom, top = 46, 16, 26, 12
    most, line = _round_top(max(values))
    plot_width, plot_height = width - left - right, height - bottom - top
    step = plot_width / len(values)
    broad = min(step * 0.72, 56)
    parts = [_scale(most, line, left, width - right, top, plot_height)]
    for place, (label, value) in enumerate(zip(labels, values, strict=True)):
        tall = max(_LEAST, plot_height * value / most) if value else 0.0
        x = left + step * (place + 0.5)
        parts.append(
            f'<rect class="train" x="{x - broad / 2:.1f}" y="{top + plot_height - tall:.1f}" width="{broad:.1f}" '
            f'height="{tall:.1f}" rx="2"><title>{text(f"{label}: {number(value)} {unit}")}</title></rect>'
        )
        parts.append(_label(x, height - 8, label, "tick", "middle"))
    return _svg(width, height, "".join(parts), f"{unit} by {', '.join(labels)}")


def columns(hist: Histogram, *, unit: str, counted: str, width: int = 520, height: int = 190) -> str:
    """Draw a histogram. Its last bin, where it is open, is drawn apart and named so."""
    left, right, bottom, top = 46, 16, 26, 12
    most, line = _round_top(int(hist.counts.max()))
    plot_width, plot_height = width - left - right, height - bottom - top
    step = min(plot_width / len(hist.counts), 60)
    parts = [_scale(most, line, left, width - right, top, plot_height)]
    edges = [f"{edge:g}" for edge in hist.edges]
    every = max(1, round(len(edges) * 40 / (step * len(hist.counts) + 1)))
    for place, value in enumerate(hist.counts.tolist()):
        tall = max(_LEAST, plot_height * value / most) if value else 0.0
        is_open = hist.open_end and place == len(hist.counts) - 1
        bounds = f"{edges[place]} and more" if is_open else f"{edges[place]} to {edges[place + 1]}"
        kind = "open" if is_open else "train"
        parts.append(
            f'<rect class="{kind}" x="{left + step * place + 0.75:.1f}" y="{top + plot_height - tall:.1f}" '
            f'width="{step - 1.5:.1f}" height="{tall:.1f}" rx="1.5">'
            f"<title>{text(f'{bounds} {unit}: {number(value)} {counted}')}</title></rect>"
        )
    for place in range(0, len(edges), every):
        last = hist.open_end and place == len(edges) - 1
        parts.append(_label(left + step * place, height - 8, "more" if last else edges[place], "tick", "middle"))
    return _svg(width, height, "".join(parts), f"{counted} by {unit}")


def _round_top(most: int) -> tuple[float, float]:
    """Return (top of the scale, distance of its lines): about three lines, the last not below `most`."""
    step = nice_step(most / 3, at_least=1.0)
    return step * -(-most // step), step


def _scale(most: float, step: float, left: float, right: float, top: float, tall: float) -> str:
    """Lines at round numbers, from 0 to `most`."""
    parts = []
    for line in range(round(most / step) + 1):
        y = top + tall * (1 - line * step / most)
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_label(left - 7, y + 4, compact(line * step), "tick", "end"))
    return "".join(parts)


def flow(steps: Sequence[Step], *, width: int = 1060) -> str:
    """Draw the stages as bars as tall as what came in: what goes on runs to the next, what is refused turns down."""
    most = max(1, *(max(step.num_in, step.num_next) for step in steps))
    top, tall, node = 62, 150, 12
    gap = min(330.0, (width - 90) / max(1, len(steps)))
    parts: list[str] = []
    rows = max(len(step.refused) for step in steps)
    for place, step in enumerate(steps):
        x = 2 + gap * place
        parts.append(_label(x, 18, step.stage, "name"))
        parts.append(_label(x, 38, f"{number(step.num_in)} in", "sub"))
        end = x + gap
        goes_on = _height(step.num_out, most, tall)
        refused = _height(step.num_refused, most, tall)
        nodes_in = max(goes_on + refused, _height(step.num_in, most, tall))
        arrives = _height(step.num_next, most, tall)
        if step.num_out:
            parts.append(_band(x + node, top, goes_on, end, arrives, f"{number(step.num_out)} go on"))
        if step.num_refused:
            parts.append(_falling(x + node, top + goes_on, refused, top + tall + 34, gap, step))
            for line, (reason, num) in enumerate(step.refused.items()):
                y = top + tall + 54 + 19 * line
                parts.append(_label(x + node + 8, y, f"{number(num)} {reason}", "reason"))
        parts.append(f'<rect class="node" x="{x:.1f}" y="{top}" width="{node}" height="{nodes_in:.1f}" rx="3"/>')
    end = 2 + gap * len(steps)
    last = steps[-1]
    parts.append(f'<rect class="node" x="{end:.1f}" y="{top}" width="{node}" '
                 f'height="{max(_LEAST, _height(last.num_next, most, tall)):.1f}" rx="3"/>')  # fmt: skip
    unit = "samples" if last.stage in ("bucket", "encode_latents") else "left"
    parts.append(_label(end, 18, unit, "name"))
    parts.append(_label(end, 38, number(last.num_next), "sub"))
    height = top + tall + (44 + 19 * rows if rows else 12)
    words = "; ".join(f"{s.stage}: {s.num_in} in, {s.num_out} out, {s.num_refused} refused" for s in steps)
    return _svg(width, height, "".join(parts), words)


def _height(num: int, most: int, tall: float) -> float:
    return max(_LEAST, tall * num / most) if num else 0.0


def _band(x: float, y: float, tall: float, end: float, end_tall: float, tip: str) -> str:
    middle, foot, end_foot = (x + end) / 2, y + tall, y + end_tall
    return (
        f'<path class="band" d="M{x:.1f} {y:.1f}H{end:.1f}V{end_foot:.1f}'
        f'C{middle:.1f} {end_foot:.1f} {middle:.1f} {foot:.1f} {x:.1f} {foot:.1f}Z"><title>{text(tip)}</title></path>'
    )


def _falling(x: float, y: float, thick: float, floor: float, gap: float, step: Step) -> str:
    """A band that leaves to the right and turns down to the list of reasons."""
    wide = min(thick, gap * 0.4)
    left = x + 14
    tip = f"{number(step.num_refused)} refused, {percent(step.num_refused, step.num_in)} of {number(step.num_in)}"
    return (
        f'<path class="refused soft" d="M{x:.1f} {y:.1f}H{left:.1f}Q{left + wide:.1f} {y:.1f} {left + wide:.1f} '
        f"{y + max(wide, 8):.1f}V{floor:.1f}H{left:.1f}V{y + thick + 4:.1f}Q{left:.1f} {y + thick:.1f} "
        f'{left - 4:.1f} {y + thick:.1f}H{x:.1f}Z"><title>{text(tip)}</title></path>'
    )


def sizes(found: Sequence[Size], shapes: Sequence[Bucket], *, width: int = 520, height: int = 340) -> str:
    """Draw display sizes as discs whose area is the number of clips, and the buckets as outlined squares."""
    left, bottom, top, right = 46, 40, 12, 14
    widest = max([size.width for size in found] + [shape.width for shape in shapes])
    tallest = max([size.height for size in found] + [shape.height for shape in shapes])
    plot_width, plot_height = width - left - right, height - bottom - top
    scale = min(plot_width / (1.08 * widest), plot_height / (1.08 * tallest))
    parts: list[str] = []
    for most, length, is_x in ((plot_width / scale, plot_width, True), (plot_height / scale, plot_height, False)):
        step = nice_step(most / 6)
        ticks = [step * i for i in range(int(most / step) + 1)]
        for tick in ticks:
            at = tick * scale
            if is_x:
                x, floor = left + at, top + plot_height
                parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{floor}"/>')
                parts.append(_label(x, height - 22, f"{tick:g}", "tick", "middle"))
            else:
                y = top + length - at
                parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
                parts.append(_label(left - 7, y + 4, f"{tick:g}", "tick", "end"))
    parts.append(_label(left + plot_width / 2, height - 5, "width x height, pixels", "tick", "middle"))
    most_clips = max((size.num_clips for size in found), default=1)
    for size in found:
        radius = 3 + 17 * (size.num_clips / most_clips) ** 0.5
        x, y = left + size.width * scale, top + plot_height - size.height * scale
        tip = f"{size.width:.0f} x {size.height:.0f}: {number(size.num_clips)} clips"
        parts.append(
            f'<circle class="disc" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"><title>{text(tip)}</title></circle>'
        )
    for shape_width, shape_height in sorted({(shape.width, shape.height) for shape in shapes}):
        x, y = left + shape_width * scale, top + plot_height - shape_height * scale
        tip = f"bucket {shape_width} x {shape_height} (width x height)"
        parts.append(
            f'<rect class="shape" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8">'
            f"<title>{text(tip)}</title></rect>"
        )
    return _svg(width, height, "".join(parts), "display sizes of the clips, and the buckets")


def glyph(shape: Bucket) -> str:
    """Draw the shape of a bucket's frame, 22 pixels at its longer side."""
    longer = max(shape.width, shape.height)
    width, height = 22 * shape.width / longer, 22 * shape.height / longer
    return (
        f'<svg class="glyph" viewBox="0 0 24 24" aria-hidden="true"><rect x="{12 - width / 2:.1f}" '
        f'y="{12 - height / 2:.1f}" width="{width:.1f}" height="{height:.1f}" rx="1.5"/></svg>'
    )
