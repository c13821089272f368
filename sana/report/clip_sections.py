"""Sections of the page on what became of the clips and of the run: summary, stages, flow, refusals."""

import time
from collections.abc import Mapping, Sequence

from sana.artifact import Artifact
from sana.report import charts
from sana.report.buckets import Buckets
from sana.report.flow import DatasetCount, Refusals, Step
from sana.report.html import bar, duration, name, number, panel, percent, section, size, table, text, tile
from sana.report.states import StageState
from sana.report.storage import Storage
from sana.report.videos import Videos

MAX_DATASETS = 100
MAX_ROWS_BYTES = 1_000_000  # of the refused files on the page


def utc(seconds: float) -> str:
    """Write a time of the clock, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def summary(
    steps: Sequence[Step],
    found: Videos | None,
    windows: Buckets | None,
    kept: Storage,
    artifacts: Mapping[str, Artifact],
) -> str:
    """The tiles at the head of the page."""
    tiles = []
    if steps:
        first, last = steps[0], steps[-1]
        refused = sum(step.num_refused for step in steps)
        whats = {"encode_latents": "samples in the store", "bucket": "samples chosen"}
        what = whats.get(last.stage, f"left after {last.stage}")
        tiles.append(tile("videos in", number(first.num_in), "found by download"))
        split = f"{number(windows.train)} train, {number(windows.eval)} eval" if windows else "no bucket yet"
        tiles.append(tile(what, number(last.num_next), split))
        tiles.append(tile("refused", number(refused), f"{percent(refused, first.num_in)} of the videos in"))
    if found:
        about = f"{percent(windows.seconds, found.seconds)} of it in samples" if windows and found.seconds else "probed"
        tiles.append(tile("footage", duration(found.seconds), about))
    about = f"{size(kept.sample_bytes / kept.num_samples)} a sample" if kept.num_samples else "no sample yet"
    tiles.append(tile("stored", size(kept.total), about))
    seconds = sum(artifact.seconds for artifact in artifacts.values())
    tiles.append(tile("time of all stages", duration(seconds), f"{len(artifacts)} stages committed"))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def stages(states: Sequence[StageState]) -> str:
    """How each stage stands, with its time as a bar."""
    done = [state.artifact for state in states if state.artifact]
    longest = max((artifact.seconds for artifact in done), default=0.0)
    rows = []
    for state in states:
        artifact = state.artifact
        kind = "bad" if state.state == "failed" else "zero" if artifact is None else "ok"
        timed = f'<span class="soft-text">{name(state.why, limit=600)}</span>' if state.why else ""
        cells = ("", "", "")
        if artifact is not None:
            timed = bar([("train", artifact.seconds, duration(artifact.seconds))], longest) + timed
            committed = utc(artifact.created_at)
            cells = (duration(artifact.seconds), f"<code>{text(artifact.fingerprint)}</code>", committed)
        mark = f'<span class="{kind}">{text(state.state)}</span>'
        rows.append((text(state.name), timed, cells[0], mark, *cells[1:]))
    head = ("stage", "time of the work", "", "state", "fingerprint", "committed")
    lead = f"{len(done)} of {len(states)} stages are committed. An artifact is found again by its fingerprint."
    listed = f'<div class="wide">{table(head, rows, right=[2], kind="by-stage")}</div>'
    content = panel("Time and artifacts", "the seconds of the run that made each artifact", listed)
    return section("stages", "Stages", lead, content)


def flow(steps: Sequence[Step]) -> str:
    """What came in, went on and was refused, drawn and as sums."""
    if not steps:
        return section("flow", "Flow of clips", "Nothing is committed yet.", "")
    last = steps[-1].stage
    holds = all(step.adds_up for step in steps)
    law = "in = out + refused holds at every stage" if holds else "in = out + refused does NOT hold at every stage"
    lead = (
        f"{number(steps[0].num_in)} videos came in, {number(steps[-1].num_out)} are left after {text(last)}; "
        f'<b class="{"ok" if holds else "bad"}">{law}</b>.'
    )
    for step in steps:
        if step.num_next != step.num_out:
            lead += (
                f" {number(step.num_out)} clips give {number(step.num_next)} samples, which are counted from there on."
            )
    rows = []
    for step in steps:
        reasons = ", ".join(f"{reason} {number(num)}" for reason, num in step.refused.items())
        law = f"{number(step.num_in)} = {number(step.num_out)} + {number(step.num_refused)}"
        mark = '<span class="ok">yes</span>' if step.adds_up else '<span class="bad">no</span>'
        rows.append((text(step.stage), number(step.num_in), number(step.num_out), number(step.num_refused),
                     text(reasons) or '<span class="zero">none</span>', law, mark))  # fmt: skip
    head = ("stage", "in", "out", "refused", "reasons", "in = out + refused", "adds up")
    drawn = (
        panel("", "", f'<div class="wide">{charts.flow(steps)}</div>')
        .replace("<h3></h3>", "")
        .replace('<p class="about"></p>', "")
    )
    return section(
        "flow",
        "Flow of clips",
        lead,
        drawn + panel("Counts", "one line a stage", table(head, rows, right=[1, 2, 3, 5])),
    )


def refusals(found: Refusals, counts: Sequence[DatasetCount]) -> str:
    """Counts by data set and reason, and the files by name."""
    reasons = list(dict.fromkeys((stage, reason) for stage, _, reason in found.counts))
    head = ("data set", "in", *(text(reason) for _, reason in reasons), "refused", "left")
    rows = [_dataset(one, reasons) for one in sorted(counts, key=lambda one: (-one.num_in, one.name))[:MAX_DATASETS]]
    about = "the videos of each data set, the refused ones by reason"
    if len(counts) > MAX_DATASETS:
        about += f"; the {MAX_DATASETS} largest of {number(len(counts))} data sets"
    by_dataset = panel(
        "By data set and reason", about, f'<div class="wide">{table(head, rows, right=range(1, len(head)))}</div>'
    )
    if not found.total:
        return section("refused", "Refused files", "No file was refused.", by_dataset)
    lines = _file_rows(found)
    keys = ", ".join(f"<code>{name(key)}</code>" for key in found.keys)
    about = (
        f"{number(len(lines))} of {number(found.total)}" if len(lines) < found.total else f"all {number(found.total)}"
    )
    if len(lines) < found.total:
        about += ", of each stage and reason its share"
    about += f"; every one is a row of {keys}"
    finder = (
        '<div class="finder"><input id="find" type="search" placeholder="filter by name, reason, stage or detail" '
        'aria-label="filter the refused files"><output id="found"></output></div>'
    )
    listed = table(("file", "stage", "reason", "detail", "data set"), lines, kind="refused-files")
    files = panel("Files", about, f'{finder}<div class="scroll">{listed}</div>', kind="long")
    lead = f"{number(found.total)} files or windows were refused. The source files were not touched."
    return section("refused", "Refused files", lead, by_dataset + files)


def _dataset(one: DatasetCount, reasons: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    numbers = [one.refused.get(key, 0) for key in reasons]
    cells = [number(num) if num else '<span class="zero">0</span>' for num in numbers]
    total = f'{number(sum(numbers))} <span class="soft-text">({percent(sum(numbers), one.num_in)})</span>'
    return (name(one.name), number(one.num_in), *cells, total, number(one.num_left))


def _file_rows(found: Refusals) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    num_bytes = 0
    for row in found.rows:
        cells = (
            f'<span class="mono">{name(row["path"])}</span>',
            text(row["stage"]),
            f'<span class="chip">{text(row["reason"])}</span>',
            name(row["detail"]),
            name(row["dataset"]),
        )
        num_bytes += sum(len(cell.encode()) + 9 for cell in cells) + 10
        if num_bytes > MAX_ROWS_BYTES:
            break
        rows.append(cells)
    return rows
