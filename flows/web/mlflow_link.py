"""The address at which MLflow shows the runs of an experiment: as one that trains models, not one that calls them."""

import json
import urllib.error
import urllib.request
from urllib.parse import quote

_VIEW = "workflowType=machine_learning"  # else it opens the page of language models, where no run is to be seen


def runs_address(url: str, experiment: str, *, timeout_s: float = 10.0) -> str:
    """Return the page of an experiment's runs on a server; that of all experiments where it has no such one yet."""
    asked = f"{url}/api/2.0/mlflow/experiments/get-by-name?experiment_name={quote(experiment, safe='')}"
    try:
        with urllib.request.urlopen(asked, timeout=timeout_s) as answer:  # noqa: S310 - our own child
            number = json.load(answer)["experiment"]["experiment_id"]
    except (urllib.error.URLError, TimeoutError, ConnectionError, ValueError, KeyError):
        return f"{url}/#/experiments?{_VIEW}"
    return f"{url}/#/experiments/{quote(str(number), safe='')}/runs?{_VIEW}"
