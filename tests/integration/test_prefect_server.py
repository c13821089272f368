"""Deployments for real: deploy, run, fail, mend, retry only what failed, cancel; on a server on loopback."""

import json
import shutil
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sana.artifact import find
from sana.config.load import load_config
from sana.context import Context
from sana.stages import encode_latents
from sana.store import open_store
from tests.loopback_servers import receiver
from tests.pipeline_runs import SMALLER, inline_workers, new_place, run_stages
from tests.prefect_server import PrefectServer

CONFIG = """
root: {folder}/store
work_dir: {folder}/work
model: {{path: {folder}/none}}
download:
  datasets: [{{id: demo, source: configs/demo/clips, source_pattern: "^([a-z]+)-", max_rejected_fraction: 0.2}}]
bucket: {{buckets: [9x96x160, 9x128x128, 9x160x96], eval_fraction: 0.0, holdout: [{held_out}]}}
train: {{max_steps: 1, global_batch_size: 1, lr_schedule: {{warmup_steps: 0}}}}
sample: {{prompts: {{cat: a cat}}}}
"""
# A flow whose only task starts a worker that never ends by itself.
WAITING = """
from pathlib import Path
from prefect import flow, task
from sana.progress import noop
from sana.runtime.launcher import launch

@task
def wait() -> None:
    folder = Path(__file__).parent
    launch("waiting_worker", folder / "job.json", log_path=folder / "job.log", lock_path=folder / "job.lock",
           report=noop, stall_timeout_s=None)

@flow
def waiting() -> None:
    wait()
"""
WORKER = """
import os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1]).parent
def on_term(*_):
    (folder / "terminated").touch()
    raise SystemExit(143)
signal.signal(signal.SIGTERM, on_term)
(folder / "pid").write_text(str(os.getpid()))
while True:
    time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, prefect_database: Path) -> Iterator[PrefectServer]:
    home = tmp_path_factory.mktemp("prefect")
    shutil.copy(prefect_database, home)
    with PrefectServer(home) as server:
        server.env["PYTHONPATH"] = str(home)
        server.start("worker", "start", "--pool", "local-process", "--type", "process", "--name", "test")
        server.wait_until(server.has_pool, "the worker did not make its pool", 60.0)
        yield server


@pytest.fixture(scope="module")
def deployed(server: PrefectServer) -> PrefectServer:
    """The server with the deployments of prefect.yaml."""
    server.run("--no-prompt", "deploy", "--all")
    return server


def write_config(folder: Path, *, held_out: str) -> str:
    path = folder / "config.yaml"
    path.write_text(CONFIG.format(folder=folder, held_out=held_out))
    return str(path)


@pytest.mark.timeout(300)
@pytest.mark.slow(group="prefect_retry")
def test_a_retry_runs_only_what_failed(deployed: PrefectServer, tmp_path: Path) -> None:
    server = deployed
    config = write_config(tmp_path, held_out="nobody")
    with receiver() as (url, got):
        (tmp_path / "hook").write_text(url)
        targets = f"notifications.targets=[{{url_file: {tmp_path}/hook}}]"
        run = server.start_run("sana-video/pipeline", config=config, until="bucket", overrides=[targets])
        server.wait_for_state(run, "Failed")
    told = [json.loads(request.body) for request in got]
    states = [f"{one['event']}.{one['state']}" for one in told]
    done = ["stage.started", "stage.completed"]
    assert states == ["run.started", *done, *done, "stage.started", "stage.failed", "run.failed"]
    assert all(one["links"]["prefect"].endswith(run) for one in told)

    def emitted() -> list[str]:
        asked = {"filter": {"event": {"prefix": ["sana."]}}}
        return [event["event"] for event in server.ask("/events/filter", asked)["events"]]

    everything = sorted(f"sana.{state}" for state in states)
    server.wait_until(lambda: sorted(emitted()) == everything, "events are missing", 30.0)
    assert server.tasks_of(run, 1) == {"download": "Completed", "probe": "Completed", "bucket": "Failed"}
    # logs come in batches, some time after the state
    reason = "bucket.holdout: 'nobody' names no file"
    server.wait_until(lambda: reason in server.logs_of(run), f"the run's log does not say {reason}", 60.0)
    assert "Traceback" not in server.logs_of(run)

    write_config(tmp_path, held_out="bunny")
    server.run("flow-run", "retry", run)
    server.wait_for_state(run, "Completed")
    assert server.tasks_of(run, 2) == {"download": "Cached", "probe": "Cached", "bucket": "Completed"}


@pytest.mark.timeout(300)
@pytest.mark.slow(group="prefect_retry")
def test_a_cancel_ends_the_worker_child(server: PrefectServer, tmp_path: Path) -> None:
    for name, text in {"waiting_flow.py": WAITING, "waiting_worker.py": WORKER, "job.json": "{}"}.items():
        (tmp_path / name).write_text(textwrap.dedent(text))
    server.deploy("waiting", "waiting_flow.py:waiting", tmp_path)
    run = server.start_run("waiting/here")
    server.wait_until((tmp_path / "pid").exists, "the worker did not start", 60.0)
    pid = int((tmp_path / "pid").read_text())
    started = time.monotonic()
    server.cancel(run)
    server.wait_until((tmp_path / "terminated").exists, "the worker was not told", 40.0)
    server.wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the worker goes on", 10.0)
    server.wait_for_state(run, "Cancelled")
    assert time.monotonic() - started < 60.0


@pytest.mark.slow(group="prefect_retry")
@pytest.mark.timeout(300)
def test_another_flow_finds_the_same_data_cached(deployed: PrefectServer, tmp_path: Path) -> None:
    """As the nightly schedule would start it."""
    server = deployed
    path = write_config(tmp_path, held_out="bunny")
    config = load_config(path)
    with inline_workers():
        run_stages(Context(config, open_store(config.root), Path(config.work_dir)), last="bucket")
    run = server.start_run("sana-prepare/prepare", config=path, until="bucket")
    server.wait_for_state(run, "Completed")
    assert set(server.tasks_of(run, 1).values()) == {"Cached"}


@pytest.mark.slow(group="prefect")
@pytest.mark.timeout(900)
def test_runs_of_the_worker_deployment_share_the_encoding(
    deployed: PrefectServer, tmp_path: Path, tiny_model: Path
) -> None:
    """Two runs of encode-worker do the work, the task that started them commits: the content is that of one process."""
    server = deployed
    place = new_place(tmp_path / "place", tiny_model)
    with inline_workers():
        expected = run_stages(place.context(f"root={tmp_path}/one"), last="encode_latents")["encode_latents"]
        prepared = run_stages(place.context(), last="encode_captions")
    overrides = [
        f"work_dir={place.folder / 'work'}",
        f"model.path={tiny_model}",
        f"download.datasets.0.source={place.clips}",
        *SMALLER,
        "encode_latents.resources.samples_per_part=2",
        "encode_latents.resources.remote_workers=2",
    ]
    parameters = {"config": "configs/demo.yaml", "overrides": overrides, "root": place.root, "until": "encode_latents"}
    run = server.start_run("sana-video/pipeline", **parameters)
    server.wait_for_state(run, "Completed", timeout_s=600.0)
    assert server.tasks_of(run, 1)["encode_latents"] == "Completed"

    workers = server.ask("/flow_runs/filter", {"flows": {"name": {"any_": ["encode-worker"]}}})
    assert sorted(worker["parameters"]["index"] for worker in workers) == [0, 1]
    # one that came late found nothing to do, and may have been cancelled when all was done
    assert "Completed" in {worker["state"]["name"] for worker in workers}
    made = find(place.context().store, encode_latents.recipe(place.context(), prepared.tables))
    assert made is not None and made.content == expected.content
    assert made.counts.extra["encoded"] == 0, "the runs of the deployment did not do the work"
