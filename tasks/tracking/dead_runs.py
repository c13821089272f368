"""Runs in MLflow whose process is gone: they are ended there as killed, on proof alone."""

import time
from collections.abc import Mapping

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from sana.errors import SanaError
from sana.runs.listing import Run as RecordedRun
from sana.runs.listing import read_run
from sana.runtime.process_id import ProcessId, this_host, this_process
from sana.store import Store
from tasks.tracking import markdown_page
from tasks.tracking.calls import as_tags

ATTEMPT = "sana.attempt."  # tags, by number
RUNNING = "is running"
RECORD = "sana.run_record"  # name of the run's record in its root
_HOST, _PID, _ROOT = "sana.process.host", "sana.process.pid", "sana.root"
_LONG_SILENT_S = 3600.0  # a bucket that is away for longer ends no run, yet nobody would wait for it
_MAX_RUNS = 500


def process_tags(store: Store) -> dict[str, str]:
    """Return the tags by which others tell whether the process that writes a run is still there."""
    me = this_process()
    return {_HOST: me.host, _PID: str(me.pid), _ROOT: store.root}


def end_dead_runs(client: MlflowClient, store: Store) -> int:
    """End the runs that say they are running though their process is gone; returns how many.

    Proof is a process of this machine and container that is no more, or a record in this root that says how the run
    ended or has been silent for an hour. Of all others nobody can tell: they are left as they are.
    """
    experiments = [one.experiment_id for one in client.search_experiments()]
    mine = [f"tags.`{_HOST}` = '{this_host()}'", f"tags.`{_ROOT}` = '{store.root}'"]
    found: dict[str, Run] = {}
    for query in mine if "'" not in store.root else mine[:1]:
        runs = client.search_runs(experiments, f"attributes.status = 'RUNNING' and {query}", max_results=_MAX_RUNS)
        found |= {run.info.run_id: run for run in runs}
    ended = 0
    for run in found.values():
        record = _record(run.data.tags, store)
        if why := _proof(run.data.tags, record):
            _end(client, run, why, record.heard_at if record else time.time())
            ended += 1
    return ended


def _record(tags: Mapping[str, str], store: Store) -> RecordedRun | None:
    if tags.get(_ROOT) != store.root or not tags.get(RECORD):
        return None
    try:
        return read_run(store, tags[RECORD])
    except SanaError:  # damaged: it proves nothing
        return None


def _proof(tags: Mapping[str, str], record: RecordedRun | None) -> str:
    """Return why a run is surely no more, or ""."""
    host, pid = tags.get(_HOST, ""), tags.get(_PID, "")
    if pid.isdigit() and ProcessId(host, int(pid)).is_gone():
        return f"its process {pid} is gone"
    if record is None:
        return ""
    now = time.time()
    if record.ended is not None:
        return f"its record says that it {record.ended.state}, which MLflow was not told"
    silent_s = now - record.heard_at
    return f"nothing was heard of it for {silent_s / 3600:.0f} h" if silent_s > _LONG_SILENT_S else ""


def _end(client: MlflowClient, run: Run, why: str, heard_at: float) -> None:
    run_id, tags = run.info.run_id, run.data.tags
    said = {name: text for name, text in tags.items() if name.startswith(ATTEMPT) and text.endswith(RUNNING)}
    new = {name: f"{text.removesuffix(RUNNING)}was killed: {why}" for name, text in said.items()}
    note = tags.get("mlflow.note.content", "")
    for name, text in said.items():
        note = note.replace(markdown_page.text(text), markdown_page.text(new[name]))
    if note:
        new["mlflow.note.content"] = note
    client.log_batch(run_id, tags=as_tags({**new, "sana.error": f"killed: {why}"}))
    client.set_terminated(run_id, "KILLED", int(heard_at * 1000))
