"""What a run tells that failed or was stopped: a row for each stage with its true counts, and how to continue."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.display import outcome, show
from flows.display.outcome import how_to_continue, rows_of_run
from sana.artifact import Artifact
from sana.config.load import load_config
from sana.context import Context
from sana.pipeline.graph import STAGES
from sana.pipeline.observers import CACHED, COMPLETED, FAILED, STOPPED
from sana.progress import Progress
from sana.store import LocalStore
from tests.shown_runs import ShownRun, artifact_of, counts_of

ROOT = Path(__file__).parents[2]
COMMAND = "sana run my.yaml --root s3://bucket/prefix"
NAMES = [name for name in STAGES if name != "filter_captions"]


def stopped_at(name: str, state: str, progress: Progress | None) -> ShownRun:
    """A run whose first stage was cached, and that ended at `name`."""
    shown = ShownRun(None)
    for above in NAMES[: NAMES.index(name)]:
        shown.start(above)
        shown.commit(above, counts_of(9), state=CACHED if above == "download" else COMPLETED)
        shown.end(above, CACHED if above == "download" else COMPLETED)
    shown.start(name)
    if progress is not None:
        shown.say(name, progress)
    shown.end(name, state)
    return shown


@pytest.mark.parametrize("state", [FAILED, STOPPED])
@pytest.mark.parametrize("name", NAMES)
def test_each_stage_has_its_row(name: str, state: str) -> None:
    shown = stopped_at(name, state, None if name == "bucket" else Progress(55, 60, "steps"))
    rows = rows_of_run(NAMES, shown.display.views)
    above, below = NAMES.index(name), len(NAMES) - NAMES.index(name) - 1
    done = [CACHED, *[COMPLETED] * len(NAMES)][:above]
    assert [row[0] for row in rows] == NAMES
    assert [row[1] for row in rows] == [*done, state, *["not reached"] * below]
    assert rows[above][2] == ("" if name == "bucket" else "55/60 steps done")
    assert all(isinstance(row[2], Artifact) for row in rows[:above]) and not any(row[2] for row in rows[above + 1 :])


def context(folder: Path) -> Context:
    config = load_config(ROOT / "configs/demo.yaml", [f"root={folder}", f"work_dir={folder}"])
    return Context(config, LocalStore(str(folder)), folder)


@pytest.mark.parametrize(
    ("name", "state", "progress", "kept", "force", "told"),
    [
        ("train", STOPPED, (55, 60, "steps"), (50, 60, "steps"), (),
         f"train stopped at step 55 of 60; checkpoint at step 50; resume: {COMMAND}"),
        ("train", FAILED, (3, 60, "steps"), (0, 60, "steps"), (),
         f"train failed at step 3 of 60; when that is mended, run it again: {COMMAND}"),
        ("train", STOPPED, None, (50, 60, "steps"), (), f"train stopped; checkpoint at step 50; resume: {COMMAND}"),
        ("encode_latents", STOPPED, (14, 40, "samples"), (12, 40, "samples"), (),
         f"encode_latents stopped at 14/40 samples; 12 of 40 samples are kept; resume: {COMMAND}"),
        ("encode_latents", FAILED, (14, 40, "samples"), (12, 40, "samples"), (),
         "encode_latents failed at 14/40 samples; 12 of 40 samples are kept; when that is mended, resume: " + COMMAND),
        ("evaluate", STOPPED, (7, 15, "evaluations"), (0, 3, "sets of weights"), (),
         f"evaluate stopped at 7/15 evaluations; run it again: {COMMAND}"),
        ("encode_latents", STOPPED, (14, 40, "samples"), (12, 40, "samples"), ("encode_latents",),
         f"encode_latents stopped at 14/40 samples; forced work starts again: {COMMAND} --force encode_latents"),
        ("sample", STOPPED, None, (0, 1, "videos"), ("encode_latents",), f"sample stopped; run it again: {COMMAND}"),
    ],
)  # fmt: skip
def test_how_to_continue(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    state: str,
    progress: tuple[int, int, str] | None,
    kept: tuple[int, int, str],
    force: tuple[str, ...],
    told: str,
) -> None:
    def remaining(_context: Context, _inputs: Mapping[str, Artifact]) -> tuple[int, int, str]:
        return kept

    monkeypatch.setattr(outcome, "stage", lambda _name: SimpleNamespace(remaining=remaining))
    shown = stopped_at(name, state, Progress(*progress) if progress else None)
    assert how_to_continue(context(tmp_path), shown.display.views[name], COMMAND, force) == told


def test_what_is_committed_but_rejects_too_much_is_not_resumed(tmp_path: Path) -> None:
    shown = stopped_at("probe", FAILED, Progress(9, 9, "videos"))
    shown.display.views["probe"].artifact = made = artifact_of("probe", counts_of(9, 5))
    told = how_to_continue(context(tmp_path), shown.display.views["probe"], COMMAND, ())
    assert told == f"probe is committed, but the run cannot go on with it; when that is changed: {COMMAND}"
    assert rows_of_run(NAMES, shown.display.views)[1] == ("probe", "failed", made)


ANSI = re.compile(r"\x1b\[[0-9;]*m")


@pytest.mark.parametrize(("columns", "terminal"), [(80, True), (120, True), (80, False)])
def test_no_id_is_broken_at_any_width(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int, *, terminal: bool
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm-256color")
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    rows = [(name, COMPLETED, artifact_of(name, counts_of(12_345_678, 345_678))) for name in NAMES[:6]]
    more = [("evaluate", FAILED, "7/15 evaluations done"), ("sample", "not reached", "")]
    text = ANSI.sub("", show.result_table([*rows, *more], LocalStore(str(tmp_path))))
    lines = text.splitlines()[:-1]
    assert all(len(line) <= columns for line in lines) or not terminal
    for name, _, made in rows:
        [line] = [line for line in lines if re.search(rf"^{name} ", line)]
        assert "12345678  12000000    345678" in line and " 31.4" in line
        assert made.key in (line if columns == 120 or not terminal else lines[lines.index(line) + 1])
    assert "7/15 evaluations done" in text and len(lines) == (1 + 8 if columns == 120 or not terminal else 1 + 8 + 7)
