"""A run as the terminal shows it, on a clock that the test turns: no stage is run."""

from dataclasses import dataclass, field
from io import StringIO

from rich.console import Console

from flows.display.progress_display import RunDisplay
from sana.artifact import Artifact, Recipe
from sana.counts import Counts
from sana.facts import EvaluateFacts, PairedDifference, WeightsLoss
from sana.pipeline.observers import COMPLETED, Committed, StageEnd, StageStart, WorkStart
from sana.progress import Progress

LOSSES = EvaluateFacts(
    {"initial": WeightsLoss(1.5, 0.01, ()), "live": WeightsLoss(0.7, 0.01, ()), "ema": WeightsLoss(0.6, 0.01, ())},
    {name: PairedDifference(-0.8, 0.01, 5, 0.5) for name in ("live", "ema")},
    step=60,
)


def artifact_of(stage: str, counts: Counts, *, seconds: float = 31.4) -> Artifact:
    """An artifact with these counts, and of evaluate with losses; nothing else is in it."""
    facts = LOSSES.to_value() if stage == "evaluate" else {}
    return Artifact(stage, "3485592174787937", 1, {}, {}, {}, counts, {}, facts, seconds=seconds)


def counts_of(num_in: int, num_rejected: int = 0) -> Counts:
    reasons = {"too_short": num_rejected} if num_rejected else {}
    return Counts(num_in, num_in - num_rejected, num_rejected, reasons, {}, None, {})


@dataclass
class ShownRun:
    """A display on a terminal `width` columns wide, or for None on none."""

    width: int | None = None
    now: float = 1000.0
    options: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.file = StringIO()
        terminal = {"force_terminal": self.width is not None, "width": self.width, "_environ": {"TERM": "xterm"}}
        self.console = Console(file=self.file, **{**terminal, **self.options})  # type: ignore[arg-type]
        self.display = RunDisplay(self.console, clock=lambda: self.now)

    def start(self, stage: str) -> None:
        self.display.on_event(StageStart(stage))
        self.display.on_event(WorkStart(stage, Recipe(stage, 1, {}, {}), {}))

    def say(self, stage: str, progress: Progress, *, after_s: float = 0.0) -> None:
        self.now += after_s
        self.display.on_stage_progress(stage, progress)

    def commit(self, stage: str, counts: Counts, *, state: str = COMPLETED, seconds: float = 31.4) -> None:
        made = artifact_of(stage, counts, seconds=seconds)
        self.display.on_event(Committed(stage, Recipe(stage, 1, {}, {}), {}, made, state))

    def end(self, stage: str, state: str, *, after_s: float = 0.0) -> None:
        self.now += after_s
        self.display.on_event(StageEnd(stage, state))

    def lines(self) -> list[str]:
        """What was printed, where there is no terminal; else the rows that are drawn now."""
        if self.width is None:
            return self.file.getvalue().splitlines()
        return "".join(segment.text for segment in self.console.render(self.display)).splitlines()

    def row(self, stage: str) -> str:
        return next(line for line in self.lines() if f" {stage} " in f"{line} ")

    def colors(self) -> set[str]:
        """The colours that are drawn now."""
        segments = self.console.render(self.display)
        return {one.style.color.name for one in segments if one.style and one.style.color and one.text.strip()}
