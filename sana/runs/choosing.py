"""Which trainings are listed, and in which order."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

from sana.runs.trainings import TrainingList, TrainingRow

Sort = Literal["newest", "loss", "drop", "step", "size", "name"]
_LAST = float("inf")  # a training without the number comes after all that have it
_ORDER: Mapping[Sort, Callable[[TrainingRow], tuple[float | str, ...]]] = {
    "newest": lambda row: (-(row.at or 0.0),),
    "loss": lambda row: (_LAST if row.eval_loss is None else row.eval_loss,),
    "drop": lambda row: (_LAST if row.drop is None else -row.drop,),
    "step": lambda row: (_LAST if row.step is None else -row.step,),
    "size": lambda row: (_LAST if row.num_bytes is None else -row.num_bytes,),
    "name": lambda row: (row.name or "\uffff", -(row.at or 0.0)),
}


def chosen(found: TrainingList, sort: Sort, wanted: Mapping[str, str], limit: int | None) -> TrainingList:
    """Return those that all of `wanted` hold for, sorted, the first `limit` of them; `total` counts those it was of.

    `wanted`: name, train and trajectory by their beginning, data by the name of one data set, others as they are.
    """
    rows = [row for row in found.trainings if all(_holds(row, key, value) for key, value in wanted.items())]
    rows.sort(key=_ORDER[sort])  # stable: of equals the newest first
    total = len(rows) if wanted else found.total
    untrained = () if wanted else found.untrained
    return replace(found, total=total, trainings=tuple(rows[:limit]), untrained=untrained)


def _holds(row: TrainingRow, key: str, value: str) -> bool:
    if key == "data":
        return value in row.datasets
    if key in ("name", "train", "trajectory"):
        return str(getattr(row, key)).startswith(value)
    return str(getattr(row, key)) == value
