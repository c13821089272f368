"""The surroundings of a real Prefect server: found in a profile, past a proxy, with a password, and killed mid-run."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from sana.artifact import latest
from sana.progress import Progress
from sana.store import open_store
from tasks import lost_server
from tasks.prefect_progress import PrefectProgress
from tests.loopback_servers import free_port, raw_server
from tests.pipeline_runs import CLIPS
from tests.prefect_server import PrefectServer

CONFIG = """
root: {folder}/store
work_dir: {folder}/work
model: {{path: {model}}}
download:
  datasets: [{{id: demo, source: {clips}, source_pattern: "^([a-z]+)-", max_rejected_fraction: 0.2}}]
bucket: {{buckets: [9x96x160, 9x128x128, 9x160x96], eval_fraction: 0.0, holdout: [bunny]}}
train: {{max_steps: 1, global_batch_size: 1}}
sample: {{prompts: {{cat: a cat}}}}
"""


def test_a_server_that_is_gone_is_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given_up: list[bool] = []
    monkeypatch.setattr("tasks.prefect_progress.let_go", lambda: given_up.append(True))
    progress = PrefectProgress(return_s=0.0)
    started = time.monotonic()
    with temporary_settings({PREFECT_API_URL: f"http://ann:secret@127.0.0.1:{free_port()}/api"}):
        for done in range(5):
            progress.on_stage_progress("probe", Progress(done, 4, "clips"))
        assert not given_up, "until the end of the run it may come back"
        progress.on_run_end(None)
    assert given_up and time.monotonic() - started < 10.0
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "does not answer" in warning and "continues without its records" in warning and "secret" not in warning


def test_a_silent_server_keeps_the_run_waiting_once_and_not_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.prefect_progress.REQUEST_S", 0.5)
    progress = PrefectProgress(return_s=0.0)
    with raw_server(None) as url, temporary_settings({PREFECT_API_URL: f"{url}/api"}):
        started = time.monotonic()
        for done in range(5):
            progress.on_stage_progress("probe", Progress(done, 4, "clips"))
        assert 0.4 < time.monotonic() - started < 5.0


def test_letting_go_reaches_the_settings_of_every_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES

    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "3")
    monkeypatch.setattr("prefect.context.GLOBAL_SETTINGS_CONTEXT", None)
    lost_server.let_go()
    try:
        assert PREFECT_CLIENT_MAX_RETRIES.value() == 0
    finally:
        lost_server._gone.clear()


@pytest.mark.slow(group="prefect_retry")
@pytest.mark.timeout(400)
def test_a_run_outlives_the_server_of_a_profile(prefect_database: Path, tiny_model: Path, tmp_path: Path) -> None:
    """The server is named in the user's profile only, wants a password, and a proxy that is dead is set."""
    home = tmp_path / "server"
    home.mkdir()
    shutil.copy(prefect_database, home)
    (tmp_path / "config.yaml").write_text(CONFIG.format(folder=tmp_path, model=tiny_model, clips=CLIPS))
    with PrefectServer(home, auth="ann:secret") as server:
        profile = tmp_path / "home/.prefect/profiles.toml"
        profile.parent.mkdir(parents=True)
        profile.write_text(
            f'active = "ours"\n[profiles.ours]\nPREFECT_API_URL = "{server.url}"\n'
            'PREFECT_API_AUTH_STRING = "ann:secret"\n'
        )
        environ = {name: value for name, value in os.environ.items() if not name.upper().startswith(("PREFECT", "NO_"))}
        environ |= {"HOME": str(tmp_path / "home"), "http_proxy": f"http://127.0.0.1:{free_port()}"}
        command = [
            sys.executable,
            "-m",
            "flows.cli.main",
            "run",
            f"{tmp_path}/config.yaml",
            "--until",
            "encode_captions",
        ]
        output = tmp_path / "output"
        with output.open("wb") as out:
            run = subprocess.Popen(command, env=environ, stdout=out, stderr=out)
        try:
            server.wait_until(
                lambda: "probe: completed" in output.read_text() or run.poll() is not None, "probe did not end", 120.0
            )
            assert run.poll() is None, output.read_text()
            (flow_run,) = server.ask("/flow_runs/filter", {})
            assert flow_run["state"]["name"] == "Running"
            os.killpg(server.processes[0].pid, signal.SIGKILL)
            killed = time.monotonic()
            assert run.wait(180) == 0, output.read_text()
        finally:
            run.kill()
    said = output.read_text()
    assert "Traceback" not in said and said.count("does not answer") == 1, said
    assert "encode_captions  completed" in said
    assert latest(open_store(f"{tmp_path}/store"), "encode_captions") is not None
    assert time.monotonic() - killed < 90.0
