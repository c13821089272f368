"""`sana deploy` on a real Prefect server, outside of a clone: deployed, run by a worker, and the pages of the run."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline_runs import CLIPS, ROOT
from tests.prefect_server import PrefectServer

CONFIG = """
root: store
work_dir: work
model: {{path: {model}}}
download:
  datasets: [{{id: demo, source: {clips}, source_pattern: "^([a-z]+)-", max_rejected_fraction: 0.2}}]
bucket: {{buckets: [9x96x160, 9x128x128, 9x160x96], eval_fraction: 0.0, holdout: [bunny]}}
train: {{max_steps: 1, global_batch_size: 1}}
sample: {{prompts: {{cat: a cat}}}}
"""


def pages_of(server: PrefectServer, run: str) -> dict[str, str]:
    found = server.ask(
        "/artifacts/filter", {"flow_runs": {"id": {"any_": [run]}}, "artifacts": {"type": {"any_": ["markdown"]}}}
    )
    return {page["key"]: page["data"] for page in found}


@pytest.mark.slow(group="deploy")
@pytest.mark.timeout(400)
def test_a_deployed_folder_runs_and_has_pages(tmp_path: Path, prefect_database: Path, tiny_model: Path) -> None:
    home, folder = tmp_path / "prefect", tmp_path / "my folder"
    home.mkdir()
    folder.mkdir()
    shutil.copy(prefect_database, home)
    (folder / "bunny.yaml").write_text(CONFIG.format(model=tiny_model, clips=CLIPS))
    with PrefectServer(home) as server:
        server.env["PYTHONPATH"] = str(ROOT)  # as if this tree were installed

        def sana(*arguments: str) -> str:
            command = [sys.executable, "-m", "flows.cli.main", *arguments]
            return subprocess.run(
                command, cwd=folder, env=server.env, check=True, capture_output=True, text=True
            ).stdout

        told = sana("deploy", "bunny.yaml", "--pool", "ours", "--name", "bunny")
        server.run("work-pool", "create", "ours", "--type", "process")
        server.run("--no-prompt", "deploy", "--all", cwd=folder)
        server.start("worker", "start", "--pool", "ours")
        (start,) = re.findall(r"prefect (deployment run \S+)", told)
        said = server.run(*start.split(), "-p", "until=bucket", "-p", 'force=["bucket"]')
        run = re.search(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", said)
        assert run is not None, said
        server.wait_for_state(run[0], "Completed", "Failed", timeout_s=120.0)
        assert server.tasks_of(run[0], 1) == dict.fromkeys(["download", "probe", "bucket"], "Completed")

        name = server.ask(f"/flow_runs/{run[0]}")["name"]
        assert re.fullmatch(r"bunny until bucket, \d{4}-\d\d-\d\d \d\d:\d\d", name), name
        server.wait_until(lambda: "artifacts are under" in server.logs_of(run[0]), "the log has no summary", 30.0)
        pages = pages_of(server, run[0])
        assert sorted(pages) == ["bunny-bucket", "bunny-download", "bunny-probe", "bunny-run"]
        assert pages["bunny-run"].startswith("# bunny: completed") and "corrupt-00.mp4" in pages["bunny-run"]
        assert "sana ui bunny.yaml" in pages["bunny-run"]

        def start_run(deployment: str, **parameters: Any) -> str:
            run = server.start_run(deployment, **parameters)
            server.wait_for_state(run, "Failed", timeout_s=90.0)
            return str(server.ask(f"/flow_runs/{run}")["state"]["message"])

        untrained = start_run("sana-evaluate/bunny-evaluate")
        assert "evaluate needs a finished training" in untrained and "encode_captions is missing" in untrained
        wrong = start_run("sana-train/bunny-train", force=["sample"])
        assert "`force` sample would do nothing" in wrong and "--" not in wrong

        # the examples beside it: Prefect's server takes them
        example = ROOT / "examples/prefect"
        server.run("automation", "create", "--from-file", str(example / "automations.yaml"))
        assert len(server.ask("/automations/filter", {})) == 3
        server.run("work-pool", "create", "local-process", "--type", "process")
        server.run("--no-prompt", "deploy", "--all", "--prefect-file", str(example / "prefect.yaml"), cwd=folder)
        nightly = server.ask("/deployments/name/sana-prepare/nightly")
        assert nightly["schedules"][0]["active"] and json.dumps("2") in json.dumps(nightly["job_variables"])
