"""MLflow's own server as a child of `sana ui`: its requests and its farewell go to a log, not to the terminal."""

import os
import runpy
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from flows.child_server import answers
from sana.errors import SanaError
from sana.runtime.job import die_with_parent

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 10.0


class MlflowServer:
    """The server process and its workers, ended as one at exit."""

    def __init__(self, uri: str, host: str, port: int, log_path: Path) -> None:
        self._uri, self._host, self._port = uri, host, port
        self._log_path = log_path
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def __enter__(self) -> Self:
        """Start it; it may not answer yet.

        Raises:
            SanaError: the address cannot be listened on.
        """
        self._check_address()
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        arguments = ["--backend-store-uri", self._uri, "--host", self._host, "--port", str(self._port)]
        with self._log_path.open("wb") as log:
            # its own session: Ctrl-C is ours, and all of its workers are ended together
            self._process = subprocess.Popen(
                [sys.executable, "-m", "flows.mlflow_server", "server", *arguments, "--workers", "1"],
                env={**os.environ, "SANA_PARENT_PID": str(os.getpid())},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(STOP_TIMEOUT_S)
            os.killpg(self._process.pid, signal.SIGKILL)  # its workers, should they hang
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        except ProcessLookupError:  # all have ended
            self._process.wait()

    def wait_until_up(self) -> None:
        """Wait until it answers.

        Raises:
            SanaError: it has ended, or does not answer within three minutes.
        """
        here = self.url.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]")  # noqa: S104 - where it is asked
        if not answers(here, self._process, START_TIMEOUT_S):
            raise SanaError(f"MLflow does not start; its log {self._log_path} says why")

    def wait(self) -> None:
        """Wait until it ends.

        Raises:
            SanaError: it did, by itself.
        """
        code = self._process.wait()
        raise SanaError(f"MLflow ended (exit code {code}); its log is {self._log_path}")

    def _check_address(self) -> None:
        try:
            family = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)[0][0]
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((self._host, self._port))
        except OSError as error:
            raise SanaError(
                f"cannot listen on {self.url}: {error.strerror}; choose another address with --mlflow-port or --host, "
                "or leave MLflow out with --no-mlflow"
            ) from error


def main() -> None:
    """Be `mlflow ARGUMENTS` until the parent is gone."""
    die_with_parent()
    runpy.run_module("mlflow", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
