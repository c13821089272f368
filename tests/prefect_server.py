"""A Prefect server on loopback with its own home, and the `prefect` command against it."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

START_S = 90.0
BUSY_S = 60.0


class PrefectServer:
    """A server process, and whatever else is started through it: all are ended with it."""

    def __init__(self, home: Path, *, auth: str = "") -> None:
        """`auth`: the user:password that it asks for."""
        self.home = home
        self._headers = {"Content-Type": "application/json"}
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/api"
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
        self.env = outside | {
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": self.url,
            "PREFECT_UI_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "DO_NOT_TRACK": "true",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        if auth:
            self._headers["Authorization"] = f"Basic {base64.b64encode(auth.encode()).decode()}"
            self.env["PREFECT_SERVER_API_AUTH_STRING"] = auth
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True, exist_ok=True)
        try:
            self.start("server", "start", "--host", "127.0.0.1", "--port", str(self.port))
            self.wait_until(self._healthy, "the server did not start", START_S)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for process in reversed(self.processes):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a `prefect` command that goes on until `close`; its output goes to a log in the home."""
        log = (self.home / f"{arguments[0]}-{len(self.processes)}.log").open("wb")
        command = [sys.executable, "-m", "prefect", *arguments]
        process = subprocess.Popen(command, env=self.env, stdout=log, stderr=log, start_new_session=True)
        self.processes.append(process)
        return process

    def run(self, *arguments: str, cwd: Path | None = None) -> str:
        """Run a `prefect` command to its end and return what it printed; a failure raises with it."""
        command = [sys.executable, "-m", "prefect", *arguments]
        done = subprocess.run(
            command, env=self.env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120
        )
        assert done.returncode == 0, f"{' '.join(arguments)}:\n{done.stdout}"
        return done.stdout

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Call the API: POST with a body, GET without."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data=data, headers=self._headers)
        deadline = time.monotonic() + BUSY_S
        while True:
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return json.loads(answer.read() or b"null")
            except urllib.error.HTTPError as error:
                # its sqlite is locked now and then under load: a 5xx is asked again, as Prefect's own client does
                if error.code < 500 or time.monotonic() > deadline:
                    raise
            time.sleep(0.5)

    def start_run(self, deployment: str, **parameters: Any) -> str:
        """Start a run of `flow/deployment` and return its id."""
        deployed = self.ask(f"/deployments/name/{deployment}")
        # the key makes a call that is asked again start no second run
        body = {"parameters": parameters, "idempotency_key": uuid.uuid4().hex}
        return self.ask(f"/deployments/{deployed['id']}/create_flow_run", body)["id"]

    def deploy(self, name: str, entrypoint: str, folder: Path) -> None:
        """Deploy a flow in `folder` as NAME/here, as `prefect deploy` would, which takes three seconds to start."""
        flow = self.ask("/flows/", {"name": name})["id"]
        pull = [{"prefect.deployments.steps.set_working_directory": {"directory": str(folder)}}]
        body = {"flow_id": flow, "name": "here", "work_pool_name": "local-process", "entrypoint": entrypoint}
        variables = {"env": {"PYTHONPATH": str(folder)}}
        self.ask("/deployments/", {**body, "pull_steps": pull, "job_variables": variables})

    def cancel(self, run_id: str) -> None:
        """Ask for a run's end, as `prefect flow-run cancel` does."""
        self.ask(f"/flow_runs/{run_id}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})

    def has_pool(self) -> bool:
        """Tell whether a worker has made a work pool."""
        return bool(self.ask("/work_pools/filter", {}))

    def state_of(self, run_id: str) -> str:
        return self.ask(f"/flow_runs/{run_id}")["state"]["name"]

    def wait_for_state(self, run_id: str, *names: str, timeout_s: float = 180.0) -> str:
        self.wait_until(
            lambda: self.state_of(run_id) in names, f"run is not {names}\n{self.logs_of(run_id)}", timeout_s
        )
        return self.state_of(run_id)

    def tasks_of(self, run_id: str, attempt: int) -> dict[str, str]:
        """State names of the task runs of one attempt of a flow run, {task: state}, in order."""
        body = {"flow_runs": {"id": {"any_": [run_id]}}, "sort": "EXPECTED_START_TIME_DESC"}
        runs = [run for run in self.ask("/task_runs/filter", body) if run["flow_run_run_count"] == attempt]
        return {run["name"]: run["state"]["name"] for run in reversed(runs)}

    def logs_of(self, run_id: str) -> str:
        logs = self.ask("/logs/filter", {"logs": {"flow_run_id": {"any_": [run_id]}}})
        return "\n".join(f"{log['level']} {log['message']}" for log in logs)

    def wait_until(self, holds: Callable[[], bool], message: str, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            if holds():
                return
            assert time.monotonic() < deadline, f"{message} after {timeout_s:g} s"
            time.sleep(0.3)

    def _healthy(self) -> bool:
        try:
            return bool(self.ask("/health"))
        except (urllib.error.URLError, OSError):
            return False
