"""What the terminal shows: the plan, the progress of a run, and its result."""

from collections.abc import Sequence

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

from flows.cli.tables import render
from sana.artifact import Artifact
from sana.facts import BASELINE, WEIGHTS, EvaluateFacts
from sana.pipeline.observers import COMPLETED, FAILED, REPRODUCED, STOPPED, Event, Observer, StageEnd, WorkStart
from sana.pipeline.plan import StagePlan
from sana.progress import Progress as StageProgress
from sana.progress import Report
from sana.store import Store

_STYLES = {"cached": "green", "completed": "cyan", "partial": "yellow", "stale": "yellow", "failed": "bold red"}


def plan_table(plans: Sequence[StagePlan]) -> str:
    """Render a plan."""
    table = Table(box=None, pad_edge=False)
    for name in ("stage", "state", "fingerprint", "why, and what would be done"):
        table.add_column(name, no_wrap=name != "why, and what would be done")
    for plan in plans:
        state = Text(plan.state, style=_STYLES.get(plan.state, ""))
        table.add_row(plan.name, state, plan.fingerprint or "-", Text(plan.detail))  # it quotes users: no markup
    return render(table)


def result_table(rows: Sequence[tuple[str, str, Artifact]], store: Store) -> str:
    """Render what a run did: stage, state, clips in / out / rejected, samples of them, seconds, artifact."""
    table = Table(box=None, pad_edge=False)
    for name in ("stage", "state", "in", "out", "rejected", "samples", "seconds", "artifact"):
        table.add_column(name, justify="left" if name in ("stage", "state", "artifact") else "right", no_wrap=True)
    for name, state, artifact in rows:
        counts = artifact.counts
        table.add_row(
            name,
            Text(state.lower(), style=_STYLES.get(state.lower(), "")),
            *(str(num) for num in (counts.num_in, counts.num_out, counts.num_rejected)),
            "" if counts.num_samples is None else str(counts.num_samples),
            f"{artifact.seconds:.1f}",
            artifact.key,
        )
    return f"{render(table)}\nartifacts are under {store.root}"


def eval_lines(artifact: Artifact) -> str:
    """Render the eval loss before and after training, with standard errors."""
    facts = EvaluateFacts.of(artifact)
    before = facts.weights[BASELINE]
    lines = [
        f"eval loss on {artifact.counts.num_in} held-out clips, before training: "
        f"{_with_error(before.mean, before.stderr)}"
    ]
    for name in WEIGHTS:
        if name != BASELINE:
            loss, paired = facts.weights[name], facts.paired[name]
            lines.append(
                f"  after {facts.step} steps, {name:4} weights: {_with_error(loss.mean, loss.stderr)}  "
                f"({paired.relative_drop:.1%} lower; paired difference {_with_error(paired.difference, paired.stderr)})"
            )
    return "\n".join(lines)


def _with_error(value: float, stderr: float | None) -> str:
    """Return `value +- standard error`; one sample has no standard error."""
    return f"{value:.4f}" + ("" if stderr is None else f" +- {stderr:.4f}")


class _Rate(ProgressColumn):
    """Work per second, in the task's own unit."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} {task.fields['unit']}/s" if speed else "", style="cyan")


class RunDisplay(Observer):
    """One progress bar per stage; where there is no terminal, one line per state. Shows while it is entered."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bars: dict[str, TaskID] = {}
        one_line = Column(no_wrap=True, overflow="ellipsis")
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]ok"),
            TextColumn("{task.description:16}", markup=False),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("{task.fields[detail]}", style="dim", markup=False, table_column=one_line),
            console=self._console,
            disable=not self._console.is_terminal,
        )

    def __enter__(self) -> "RunDisplay":
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def reporter(self, name: str, *, with_unit: bool = False) -> Report:
        """Return a report that shows the progress of work that is no stage of a run, `with_unit` a bar for each."""
        return lambda progress: self.on_stage_progress(f"{name} {progress.unit}" if with_unit else name, progress)

    def on_event(self, event: Event) -> None:
        if isinstance(event, WorkStart):
            self._bar(event.stage)
        elif isinstance(event, StageEnd):
            if event.state in (FAILED, STOPPED) and event.stage not in self._bars:
                return  # it failed before it had work to do: the error says all
            bar = self._bar(event.stage)
            total = self._progress.tasks[bar].total or 1
            state = COMPLETED if event.state == REPRODUCED else event.state
            self._progress.update(bar, total=total, completed=total if state != FAILED else None, detail=state)
            self._line(f"{event.stage}: {state}")

    def on_stage_progress(self, stage: str, progress: StageProgress) -> None:
        bar = self._bars.get(stage)
        if bar is None:
            bar = self._bar(stage)
            self._line(f"{stage}: {progress.total} {progress.unit} ...")
        self._progress.update(
            bar, total=progress.total, completed=progress.done, unit=progress.unit, detail=progress.detail
        )

    def _bar(self, stage: str) -> TaskID:
        if stage not in self._bars:
            self._bars[stage] = self._progress.add_task(stage, total=None, unit="", detail="")
        return self._bars[stage]

    def _line(self, text: str) -> None:
        if not self._console.is_terminal:
            self._console.print(text, highlight=False, markup=False)
