"""A temporary Prefect server for one run in this process, as Prefect itself would start it, only sooner.

Prefect's own imports the whole server into the client first, and starts it when the flow is called: 10 s on 2 cores.
Started here as a process of its own, at once, it comes up while the client is still importing: nothing else differs.
"""

import atexit
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from sana.errors import SanaError
from sana.runtime.job import die_with_parent

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 5.0  # it still writes the last events


def start_temporary_server(log_path: Path) -> None:
    """Start a server on loopback, name it in PREFECT_API_URL, and end it last of all when this process ends.

    Nothing is done if PREFECT_API_URL names one already. Call it before Prefect is imported: what Prefect still has
    to send at exit goes out before the server is ended. It may not answer yet: `wait_until_up` waits for it.
    """
    if os.environ.get("PREFECT_API_URL"):
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log_path.parent.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "PREFECT_UI_ENABLED": "0",
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT__SERVER_FINAL": "1",
        "SANA_PARENT_PID": str(os.getpid()),
    }
    with log_path.open("ab") as log:
        # its own session: a Ctrl-C ends the flow first, which still has to report that to the server
        server = subprocess.Popen(
            [sys.executable, "-m", "flows.server", str(port)],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    atexit.register(_stop, server)


def _stop(server: "subprocess.Popen[bytes]") -> None:
    server.terminate()
    try:
        server.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def wait_until_up() -> None:
    """Wait until the server that PREFECT_API_URL names answers.

    Raises:
        SanaError: it does not, within two minutes.
    """
    url = os.environ["PREFECT_API_URL"]
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):  # noqa: S310 - our own server, or the user's
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise SanaError(f"the Prefect server at {url} does not answer; unset PREFECT_API_URL, or start it")


def main() -> None:
    """Serve Prefect's API on the loopback port given, until the parent is gone."""
    die_with_parent()
    import uvicorn

    uvicorn.run(
        "prefect.server.api.server:create_app",
        factory=True,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="error",
        lifespan="on",
    )


if __name__ == "__main__":
    main()
