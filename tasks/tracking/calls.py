"""Calls of MLflow's client that several runs make: errors, points, tags."""

import time
from collections.abc import Mapping, Sequence

from mlflow.entities import Metric, RunTag
from mlflow.tracking import MlflowClient

from sana.errors import why_ended
from tasks.tracking.metrics_shipper import Point

LOGGED_MODEL = "sana.logged_model"  # tag of a training's run: the id of its model in MLflow's list of models


def note_error(client: MlflowClient, run_id: str, error: BaseException | None) -> None:
    """Say what ended the run, or take back what an earlier attempt said."""
    if error is not None:
        client.set_tag(run_id, "sana.error", _text_of(error)[:5000])
    elif "sana.error" in client.get_run(run_id).data.tags:
        client.delete_tag(run_id, "sana.error")


def _text_of(error: BaseException) -> str:
    """Return an error's text with its lines; of what asked for a stop, by what."""
    return (str(error) or type(error).__name__) if isinstance(error, Exception) else why_ended(error)


def logged_points(client: MlflowClient, run_id: str) -> set[tuple[str, int]]:
    names = client.get_run(run_id).data.metrics
    return {(name, point.step) for name in names for point in client.get_metric_history(run_id, name)}


def send_points(client: MlflowClient, run_id: str, points: Sequence[Point]) -> bool:
    client.log_batch(run_id, [Metric(p.name, p.value, p.time_ms, p.step) for p in points])
    return True


def as_tags(tags: Mapping[str, str]) -> list[RunTag]:
    return [RunTag(name, value) for name, value in tags.items()]


def end_curves(client: MlflowClient, run_id: str, step: int, row: Mapping[str, float]) -> None:
    """Add the points of a training's last step to its curves where they are missing, and show them at its model."""
    now_ms = int(time.time() * 1000)
    model = client.get_run(run_id).data.tags.get(LOGGED_MODEL)
    shown = {metric.key for metric in client.get_logged_model(model).metrics or ()} if model else set()
    new = [
        Metric(name, value, now_ms, step, model_id=model)
        for name, value in row.items()
        if (model and name not in shown)
        or step not in {point.step for point in client.get_metric_history(run_id, name)}
    ]
    if new:
        client.log_batch(run_id, new)
