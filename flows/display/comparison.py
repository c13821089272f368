"""A comparison as text for the terminal."""

from rich.table import Table
from rich.text import Text

from flows.display.tables import render
from flows.display.wrapping import terminal_width
from sana.comparison.data import ClipDifference, NamedClip
from sana.comparison.record import Comparison, PairComparison, Side
from sana.comparison.words import difference, difference_rows, side_name, verdict
from sana.report.formatting import name as shown
from sana.wording import counted

_STYLES = {"better": "green", "worse": "red"}
_NAME_CHARS, _LEAST_NAME_CHARS, _CUT = 40, 16, 3  # characters; those of the sign that some are left out
_BESIDE_NAME = {"sides": 47, "differences": 59}  # columns of the rest of a row, with wide numbers


def comparison_text(found: Comparison) -> str:
    """Return what was found: the sides, and of each pair a verdict, the differences, settings, data and videos."""
    blocks = [sides_table(found.sides)]
    for pair in found.pairs:
        blocks += ["", verdict(pair), "", differences_table(pair), *_notes(pair.losses.notes)]
        blocks += _config_lines(pair)
        blocks += _data_lines("trained on", pair.train_clips, pair)
        blocks += _data_lines("evaluated on", pair.eval_clips, pair)
        blocks += _notes(pair.notes)
    if found.samples:
        blocks += ["", "videos of the same prompt and seed:"]
        for row in found.samples:
            blocks.append(f"  {shown(row.prompt)}, seed {row.seed}")
            blocks += [f"    {video.side}  {shown(video.uri)}" for video in row.videos]
    return "\n".join(blocks + _notes(found.notes))


def sides_table(sides: tuple[Side, ...]) -> str:
    """Render what is compared, a line each."""
    table = Table(box=None, pad_edge=False)
    for title in ("", "what", "step", "weights", "eval loss", "samples"):
        table.add_column(title, justify="right" if title in ("step", "eval loss", "samples") else "left", no_wrap=True)
    for side in sides:
        step = "-" if side.step is None else str(side.step)
        loss = f"{side.loss:.4f}" + ("" if side.stderr is None else f" \u00b1 {side.stderr:.4f}")
        cells = (side.label, _fitting(side_name(side), "sides"), step, side.weights, loss, str(side.num_samples))
        table.add_row(*map(Text, cells))
    return render(table)


def differences_table(pair: PairComparison) -> str:
    """Render the differences of a pair, over all and by noise level, bucket, data set and condition."""
    table = Table(box=None, pad_edge=False)
    titles = ("", "samples", pair.reference, pair.side, f"{pair.side} - {pair.reference}", "")
    for place, title in enumerate(titles):
        table.add_column(title, justify="left" if place in (0, 5) else "right", no_wrap=True)
    for what, loss in difference_rows(pair):
        style = _STYLES.get(loss.verdict, "")
        cells = [_fitting(what, "differences"), str(loss.num_samples), f"{loss.reference:.4f}", f"{loss.loss:.4f}"]
        table.add_row(*map(Text, cells), Text(difference(loss), style=style), Text(loss.verdict, style=style))
    return render(table)


def _fitting(text: str, table: str) -> str:
    """Escape a name, and leave out its middle where the terminal has no room for it."""
    width = terminal_width()
    most = max(_LEAST_NAME_CHARS, min(_NAME_CHARS, width - _BESIDE_NAME[table])) if width else _NAME_CHARS
    return shown(text, most - _CUT)


def _config_lines(pair: PairComparison) -> list[str]:
    if not pair.config:
        return ["", "settings: the same"]
    lines = [f"  {shown(change.stage)}: {shown(phrase)}" for change in pair.config for phrase in change.changes]
    return ["", f"settings, {pair.reference} -> {pair.side}:", *lines]


def _data_lines(what: str, clips: ClipDifference | None, pair: PairComparison) -> list[str]:
    if clips is None:
        return []
    if clips.is_same:
        return [f"{what} the same {counted(clips.num_b, 'clip')}"]
    numbers = f"{clips.added} added, {clips.removed} removed, {clips.changed} changed"
    lines = [f"{what} {clips.num_a} clips by {pair.reference}, {clips.num_b} by {pair.side}: {numbers}"]
    for sign, first, total in (
        ("+", clips.first_added, clips.added),
        ("-", clips.first_removed, clips.removed),
        ("~", clips.first_changed, clips.changed),
    ):
        lines += [f"  {sign} {_clip(clip)}" for clip in first]
        if total > len(first):
            lines.append(f"  {sign} and {total - len(first)} more")
    return lines


def _clip(clip: NamedClip) -> str:
    return f"{shown(clip.dataset)}: {shown(clip.path)}"


def _notes(notes: tuple[str, ...]) -> list[str]:
    return [f"note: {shown(note)}" for note in notes]
