"""The page on which two trainings are chosen to be compared."""

from collections.abc import Sequence

from sana.comparison.words import training_name
from sana.report import html
from sana.report.live.committed import TrainingEntry
from sana.report.live.live_page import Topic

MAX_CHOICES = 300  # the newest


def parts(rows: Sequence[TrainingEntry], topic: Topic) -> tuple[str, dict[str, str]]:
    """Return the title and the parts of the page."""
    found = sorted(rows, key=lambda row: -row.created_at)
    evaluated = [row for row in found if row.evaluated is not None][:MAX_CHOICES]
    choices = [(row, training_name(row.title, row.key)) for row in evaluated]
    form = html.fragment("live/compare.html.j2", choices=choices, topic=topic)
    return "Compare trainings", {"choose": form}
