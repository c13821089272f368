"""The pages of a run on MLflow's server, where that is one."""

from urllib.parse import quote

from sana.wording import without_password
from tasks.tracking.tracker import Tracker

MODEL_TRAINING = "?workflowType=machine_learning"  # without it MLflow shows what it has for language models


def mlflow_page(tracker: Tracker, run_id: str | None = None) -> str | None:
    """Return the address of a run on the tracking server, without its password; None where it has none.

    `run_id`: unset, the pipeline's.
    """
    run_id = run_id or tracker.run_id
    if run_id is None or not tracker.uri.startswith(("http://", "https://")):
        return None
    experiment: str | None = tracker.try_to(lambda client: client.get_run(run_id).info.experiment_id)
    if experiment is None:
        return None
    server = without_password(tracker.uri).rstrip("/")
    return f"{server}/#/experiments/{quote(experiment, safe='')}/runs/{quote(run_id, safe='')}{MODEL_TRAINING}"
