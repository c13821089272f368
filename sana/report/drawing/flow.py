"""What the stages keep and reject, as bands that run on or bend down."""

from collections.abc import Sequence

from sana.report.drawing.shapes import LEAST, Chart, Shape, bar_height, label, rect
from sana.report.flow import Step
from sana.report.formatting import number, percent


def flow(steps: Sequence[Step], *, end: str, width: int = 1060) -> Chart:
    """Draw the stages as bars as tall as what came in: what is kept runs to the next, what is rejected bends down.

    `end`: the name of what is left after the last.
    """
    most = max(1, *(max(step.num_in, step.num_next) for step in steps))
    top, tall, node = 62, 150, 12
    gap = min(330.0, (width - 90) / len(steps))
    shapes: list[Shape] = []
    for place, step in enumerate(steps):
        x = 2 + gap * place
        shapes += [label(x, 18, step.stage, "name"), label(x, 38, f"{number(step.num_in)} in", "sub")]
        kept = bar_height(step.num_out, most, tall)
        rejected = bar_height(step.num_rejected, most, tall)
        if step.num_out:
            arrives = bar_height(step.num_next, most, tall)
            shapes.append(_band(x + node, top, kept, x + gap, arrives, f"{number(step.num_out)} kept"))
        if step.num_rejected:
            shapes.append(_rejected_band(x + node, top + kept, rejected, top + tall + 34, gap, step))
        for line, (reason, num) in enumerate(step.rejected.items()):
            shapes.append(label(x + node + 8, top + tall + 54 + 19 * line, f"{number(num)} {reason}", "reason"))
        came_in = max(kept + rejected, bar_height(step.num_in, most, tall))
        shapes.append(rect("node", x, top, node, came_in, radius=3))
    x, left = 2 + gap * len(steps), steps[-1].num_next
    shapes.append(rect("node", x, top, node, max(LEAST, bar_height(left, most, tall)), radius=3))
    shapes += [label(x, 18, end, "name"), label(x, 38, number(left), "sub")]
    rows = max(len(step.rejected) for step in steps)
    about = "; ".join(f"{s.stage}: {s.num_in} in, {s.num_out} out, {s.num_rejected} rejected" for s in steps)
    return Chart(width, top + tall + (44 + 19 * rows if rows else 12), about, shapes)


def _band(x: float, y: float, tall: float, end: float, end_tall: float, tip: str) -> Shape:
    middle, foot, end_foot = (x + end) / 2, y + tall, y + end_tall
    path = (
        f"M{x:.1f} {y:.1f}H{end:.1f}V{end_foot:.1f}"
        f"C{middle:.1f} {end_foot:.1f} {middle:.1f} {foot:.1f} {x:.1f} {foot:.1f}Z"
    )
    return Shape("path", "band", {"d": path}, tip=tip)


def _rejected_band(x: float, y: float, thick: float, floor: float, gap: float, step: Step) -> Shape:
    """A band that leaves to the right and bends down to the list of reasons."""
    wide = min(thick, gap * 0.4)
    left = x + 14
    path = (
        f"M{x:.1f} {y:.1f}H{left:.1f}Q{left + wide:.1f} {y:.1f} {left + wide:.1f} {y + max(wide, 8):.1f}"
        f"V{floor:.1f}H{left:.1f}V{y + thick + 4:.1f}Q{left:.1f} {y + thick:.1f} {left - 4:.1f} {y + thick:.1f}"
        f"H{x:.1f}Z"
    )
    tip = f"{number(step.num_rejected)} rejected, {percent(step.num_rejected, step.num_in)} of {number(step.num_in)}"
    return Shape("path", "rejected soft", {"d": path}, tip=tip)
