"""The Prefect server of a run: the one that the user's settings name, else a temporary one for this process.

Prefect would start one by itself, but imports the whole server into the client first, and starts it when the flow is
called: 10 s on 2 cores. Started here as a process of its own, at once, it comes up while planning goes on and the
client is imported: nothing else differs.
"""

import atexit
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from flows.child_server import answers
from flows.environment import importing_prefect, prefect_is_configured
from sana.errors import SanaError
from sana.runtime.job import die_with_parent

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 5.0  # it still writes the last events
# with Prefect's own, 5 and 60 s, a client tries for 6 minutes; with these 15 s, or 55 s where a server is silent
_CAPS = [
    ("client", "max_retries", "PREFECT_CLIENT_MAX_RETRIES", "3"),
    ("api", "request_timeout", "PREFECT_API_REQUEST_TIMEOUT", "10"),
]
_USERS_SERVER_SETTINGS = ("PREFECT_SERVER_API_AUTH_STRING", "PREFECT_SERVER_API_BASE_PATH")  # not for ours


@dataclass(frozen=True)
class TemporaryServer:
    """A server process of this run."""

    process: "subprocess.Popen[bytes]"
    url: str
    log_path: Path

    def wait_until_up(self) -> None:
        """Wait until it answers.

        Raises:
            SanaError: it has ended, or does not answer within two minutes.
        """
        if answers(self.url, self.process, START_TIMEOUT_S):
            return
        if self.process.poll() is not None:
            raise SanaError(
                f"the temporary Prefect server ended before it answered (exit code {self.process.returncode}): "
                f"{_last_line(self.log_path)}; all of it is in {self.log_path}"
            )
        raise SanaError(
            f"the temporary Prefect server does not answer after {START_TIMEOUT_S:g} s; is the machine very busy? "
            f"Its log is {self.log_path}"
        )

    def stop(self) -> None:
        """End it, after what it still has to write."""
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def find_or_start_server(log_path: Path) -> TemporaryServer | None:
    """Check the server that the user's settings name, or, where they name none, start a temporary one on loopback.

    The temporary one is named in PREFECT_API_URL and ended last of all when this process ends. Call it before Prefect
    is imported: what Prefect still has to send at exit goes out before the server is ended. It may not answer yet:
    `wait_until_up` waits for it.

    Raises:
        SanaError: Prefect's settings are wrong, or the server that they name cannot be used.
    """
    atexit.register(_stop_started)
    if not prefect_is_configured():
        for _, _, name, value in _CAPS:
            os.environ.setdefault(name, value)
        return _start(log_path)
    with importing_prefect():
        from prefect.context import refresh_global_settings_context
        from prefect.settings import get_current_settings

        from flows.server_check import check_server
    settings = get_current_settings()
    for section, field, name, value in _CAPS:
        if field not in getattr(settings, section).model_fields_set:
            os.environ[name] = value
    if settings.api.url:
        refresh_global_settings_context()
        check_server()
        return None
    server = _start(log_path)
    if settings.server.api.auth_string is not None:  # of a profile: the temporary server reads it as well
        os.environ["PREFECT_API_AUTH_STRING"] = settings.server.api.auth_string.get_secret_value()
    refresh_global_settings_context()
    return server


def _start(log_path: Path) -> TemporaryServer:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log_path.parent.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name not in _USERS_SERVER_SETTINGS} | {
        "PREFECT_UI_ENABLED": "0",
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT__SERVER_FINAL": "1",
        "SANA_PARENT_PID": str(os.getpid()),
    }
    with log_path.open("ab") as log:
        # its own session: a Ctrl-C ends the flow first, which still has to report that to the server
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.server", str(port)],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    server = TemporaryServer(process, f"http://127.0.0.1:{port}/api", log_path)
    os.environ["PREFECT_API_URL"] = server.url
    _started.append(server)
    return server


_started: list[TemporaryServer] = []


def _stop_started() -> None:
    for server in _started:
        server.stop()


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it wrote nothing"


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
