"""The screen of `sana watch`: one frame laid out for the width and height that there is. Nothing is read here.

What people wrote (titles, errors, names) is shown as it is, without its control characters and never as markup.
"""

import time
from collections.abc import Iterable, Sequence
from textwrap import wrap

from rich.cells import cell_len, chop_cells
from rich.text import Text

from flows.watch.frame import WatchDocument, WatchedStage
from flows.watch.plot import Line, number_text, plot
from sana import metrics
from sana.wording import age, clock, rate_text, without_controls

WIDE = 100  # columns from which on the stages and what is told of them stand side by side
_STYLES = {
    "running": "bold cyan",
    "waiting": "yellow",
    "silent": "bold yellow",
    "killed": "bold red",
    "completed": "bold green",
    "failed": "bold red",
    "stopped": "bold yellow",
}
_DONE = ("cached", "completed", "reproduced")
_MIN_PLOT, _GOOD_PLOT, _MAX_PLOT = 5, 9, 14  # rows of a curve; for a good one stages that are done share a row
_SHOWN = (  # of the last numbers: name, metric, how it is written
    ("loss", metrics.TRAIN_LOSS, "{:.4f}"),
    ("eval", metrics.EVAL_LOSS_EMA, "{:.4f}"),
    ("lr", metrics.LEARNING_RATE, "{:.2e}"),
    ("grad norm", metrics.GRAD_NORM, "{:.3g}"),
    ("samples/s", metrics.SAMPLES_PER_S, "{:.3g}"),
    ("step", metrics.STEP_S, "{:.3g} s"),
    ("MFU", metrics.MFU, "{:.1%}"),
    ("GPU", metrics.GPU_RESERVED_PEAK_GIB, "{:.1f} GiB"),
    ("host", metrics.HOST_PEAK_GIB, "{:.1f} GiB"),
)
EVAL_CURVES = ((metrics.EVAL_LOSS_EMA, "green"), (metrics.EVAL_LOSS_LIVE, "yellow"))


def draw(frame: WatchDocument, width: int, height: int, now: float, *, ascii_only: bool = False) -> list[Text]:
    """Return at most `height` lines of at most `width` columns. `now` is Unix time, seconds."""
    head, tail = _head(frame, width, now), _tail(frame, width)
    left = height - len(head) - len(tail)
    numbers = _numbers(frame, width)
    if width >= WIDE:
        events = _events(frame, max(2, left - _MIN_PLOT - len(numbers) - 3))
        side = [*numbers, *([Text()] if numbers and events else []), *events]
        column = width // 2 - 1
        stages = _stages(frame.stages, column, _room(frame, left, max(len(side), 3)))
        body = _beside(stages, side, column, ascii_only=ascii_only)
    else:
        events = _events(frame, 3 if height < 30 else 6)
        room = left - len(numbers) - len(events) - (_GOOD_PLOT if frame.curves else 0)
        body = [*_stages(frame.stages, width, max(room, 3)), *numbers, *events]
    curves = _curves(frame, width, left - len(body), ascii_only=ascii_only)
    lines = [*head, *body, *curves, *tail]
    for line in lines:
        line.no_wrap = True
        line.truncate(width, overflow="crop" if ascii_only else "ellipsis")
    return lines[:height]


def numbers_of(frame: WatchDocument) -> list[tuple[str, str]]:
    """Return the last numbers of the training, each with its name."""
    found = []
    for name, metric, form in _SHOWN:
        if (value := frame.latest.get(metric)) is not None:
            text = form.format(value)
            if metric == metrics.EVAL_LOSS_EMA and (error := frame.latest.get(metrics.EVAL_STDERR_EMA)) is not None:
                text += f" +- {error:.4f}"
            found.append((name, text))
    return found


def stage_line(stage: WatchedStage) -> str:
    """Return what is told of one stage: its counts, its rate with its ETA, and what it is busy with."""
    parts = []
    if stage.total:
        parts.append(f"{stage.done}/{stage.total} {stage.unit}")
    elif stage.num_in is not None:
        parts.append(f"{stage.num_in} in, {stage.num_out} out")
    if stage.num_rejected:
        parts.append(f"{stage.num_rejected} rejected")
    if stage.state == "running" and stage.per_s:
        parts.append(rate_text(stage.per_s, "" if stage.total else stage.unit))
        if stage.left_s:
            parts.append(f"ETA {clock(stage.left_s)}")
    elif stage.elapsed_s is not None:
        words = {"running": "for", **dict.fromkeys(_DONE, "took")}.get(stage.state, "after")
        parts.append(f"{words} {clock(stage.elapsed_s)}")
    if stage.detail and stage.state not in _DONE:
        parts.append(without_controls(stage.detail))
    return ", ".join(parts)


def _head(frame: WatchDocument, width: int, now: float) -> list[Text]:
    style = _STYLES.get(frame.state, "")
    title = Text.assemble((without_controls(frame.title) or "sana watch", "bold"), "  ", (frame.state, style))
    lines, said = [title], without_controls(frame.said)
    said_style = "" if frame.state == "running" else style
    if title.cell_len + 2 + cell_len(said) <= width:
        title.append(f"  {said}", style=said_style)
    else:
        lines += [Text(row, style=said_style) for row in _rows(said, width)[:2]]
    if frame.run_id:
        began = f"began {age(now - (frame.started_at or now))} ago"
        sign = f", last sign {age(now - frame.heard_at)} ago" if frame.heard_at and not frame.is_over else ""
        where = f" on {without_controls(frame.host)}" if frame.host else ""
        attempts = _attempts(frame)
        told = f"run {frame.run_id}{where}, {began}{sign}"
        parts = [f"{told}{attempts}"] if cell_len(told + attempts) <= width else [told, attempts[2:]]
        lines += [Text(part, style="dim") for part in parts if part]
    if frame.trouble:
        lines += [Text(row, style="bold yellow") for row in _rows(without_controls(frame.trouble), width)[:2]]
    return lines


def _attempts(frame: WatchDocument) -> str:
    """Say which attempt this is, and how the one before ended."""
    others = [one for one in frame.attempts if one.run_id < frame.run_id]
    if not others:
        return ""
    last = max(others, key=lambda one: one.run_id)
    at = "" if last.step is None else f" at step {last.step}"
    if at and last.state in ("killed", "silent"):
        at = f", last heard of{at}"
    return f"; attempt {len(others) + 1}, the one before {last.state}{at}"


def _stages(stages: Sequence[WatchedStage], width: int, room: int) -> list[Text]:
    """Return a row for each stage; where that is too much, those that are done share one or two."""
    if len(stages) <= room:
        return [_stage(stage, max(len(one.name) for one in stages)) for stage in stages]
    names = ", ".join(stage.name for stage in stages if stage.state in _DONE)
    rest = [stage for stage in stages if stage.state not in _DONE]
    rows = [Text(row, style="dim") for row in wrap(names, max(width - 3, 1))]
    signs = [("ok ", "green"), *[("   ", "")] * len(rows)]
    longest = max((len(stage.name) for stage in rest), default=0)
    shared = [Text.assemble(sign, row) for sign, row in zip(signs, rows, strict=False)]
    return [*shared, *(_stage(stage, longest) for stage in rest)][: max(room, 1)]


def _stage(stage: WatchedStage, longest: int) -> Text:
    sign, style = {
        **dict.fromkeys(_DONE, ("ok", "green")),
        "running": ("> ", "cyan"),
        "failed": ("x ", "bold red"),
    }.get(stage.state, ("! ", "yellow"))
    words = {"completed": "", "running": ""}.get(stage.state, stage.state)
    told = "  ".join(part for part in (words, stage_line(stage)) if part)
    row = Text.assemble((sign, style), f" {stage.name:{longest}} ", (told, "dim" if stage.state in _DONE else ""))
    if stage.error and stage.state != "stopped":  # that is no error, and the head says it
        row.append(f"  {without_controls(stage.error)}", style="red")
    return row


def _numbers(frame: WatchDocument, width: int) -> list[Text]:
    """Return the last numbers, as many in a row as fit."""
    rows, room = [Text()], width if width < WIDE else width // 2 - 2
    for name, text in numbers_of(frame):
        cell = Text.assemble((f"{name} ", "dim"), (text, "bold"), "   ")
        if rows[-1].cell_len and rows[-1].cell_len + cell.cell_len - 3 > room:
            rows.append(Text())
        rows[-1].append_text(cell)
    return [row for row in rows if row.cell_len]


def _events(frame: WatchDocument, most: int) -> list[Text]:
    shown = []
    for event in frame.events[-most:]:
        at = time.strftime("%H:%M:%S", time.localtime(event.at))
        shown.append(Text.assemble((f"{at} ", "dim"), (f"{event.stage} ", "cyan"), without_controls(event.text)))
    return shown


def _curves(frame: WatchDocument, width: int, room: int, *, ascii_only: bool) -> list[Text]:
    """Return the loss and the eval loss side by side, or the one that there is."""
    rows = min(room - 1, _MAX_PLOT)
    loss = frame.curves.get(metrics.TRAIN_LOSS)
    evals = [(frame.curves[name], name, style) for name, style in EVAL_CURVES if name in frame.curves]
    if rows < _MIN_PLOT - 1 or not (loss or evals):
        return []
    both = bool(loss and evals)
    column = (width - 3) // 2 if both else width
    panels = []
    if loss:
        lines = [Line(loss.steps, loss.values, "cyan")]
        panels.append([Text("train/loss", style="bold"), *plot(lines, column, rows, ascii_only=ascii_only)])
    if evals:
        lines = [Line(curve.steps, curve.values, style) for curve, _, style in reversed(evals)]
        title = Text.assemble(("eval loss", "bold"))
        for curve, name, style in evals:
            title.append(f"  {name.rpartition('_')[2]} {number_text(curve.values[-1])}", style=style)
        panels.append([title, *plot(lines, column, rows, ascii_only=ascii_only)])
    return _beside(panels[0], panels[1], column, ascii_only=ascii_only) if both else panels[0]


def _tail(frame: WatchDocument, width: int) -> list[Text]:
    lines: list[Text] = []
    if frame.error:
        lines += [Text(row, style="bold red") for row in _rows(f"error: {without_controls(frame.error)}", width)[:3]]
    if frame.sample:
        lines += _path_lines("last sample ", frame.sample, width)
    lines.append(Text.assemble(("root ", "dim"), without_controls(frame.root), *_links(frame.links.items())))
    return lines


def _rows(text: str, width: int) -> list[str]:
    """Break a text between words; a word that is wider than the terminal, and wide letters, where the row ends."""
    return [part for row in wrap(text, max(width, 1), break_on_hyphens=False) for part in chop_cells(row, width)]


def _path_lines(title: str, path: str, width: int) -> list[Text]:
    """Return a path that can be copied: on as many lines as it needs, never cut."""
    text, room = without_controls(path), max(width, 20)
    if len(title) + len(text) <= room:
        return [Text.assemble((title, "dim"), text)]
    return [Text(title, style="dim"), *(Text(text[at : at + room]) for at in range(0, len(text), room))]


def _links(links: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(f"  {without_controls(name)} {without_controls(address)}", "dim") for name, address in links]


def _room(frame: WatchDocument, left: int, beside: int) -> int:
    """Return the rows that the stages may have, so that a curve fits below them."""
    return max(beside, left - (_MIN_PLOT + 2 if frame.curves else 0))


def _beside(left: Sequence[Text], right: Sequence[Text], column: int, *, ascii_only: bool) -> list[Text]:
    """Put rows side by side; the left ones are cut to their column."""
    rows = []
    for number in range(max(len(left), len(right))):
        row = left[number].copy() if number < len(left) else Text()
        row.truncate(column, overflow="crop" if ascii_only else "ellipsis")
        row.pad_right(max(column - row.cell_len, 0) + 2)
        if number < len(right):
            row.append_text(right[number])
        row.rstrip()
        rows.append(row)
    return rows
