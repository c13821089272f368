"""MLflow that cannot be used is one warning with the remedy, soon, never a traceback or a password; `sana ui` too."""

import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from flows.cli.main import cli
from flows.web.server import PageServer
from sana.config.load import load_config
from sana.errors import SanaError
from sana.store import open_store
from sana.wording import without_password
from tasks.tracking.tracker import Tracker
from tests.loopback_servers import free_port, raw_server, web_server

Server = Callable[[Path], AbstractContextManager[str]]


def web(answer: tuple[int, object], **options: str) -> Server:
    return lambda _: web_server({}, otherwise=answer, **options)


@contextmanager
def at(uri: str, folder: Path) -> Iterator[str]:
    yield uri.format(port=free_port(), folder=folder)


@contextmanager
def no_database(folder: Path) -> Iterator[str]:
    (folder / "mlflow.db").write_bytes(b"no database" * 100)
    yield f"sqlite:///{folder}/mlflow.db"


@contextmanager
def as_https(_: Path) -> Iterator[str]:
    with web_server({}) as url:
        yield url.replace("http", "https")


TROUBLE: dict[str, tuple[Server, str]] = {
    "refused": (partial(at, "http://127.0.0.1:{port}"), "nothing runs there"),
    "no such host": (partial(at, "http://mlflow.invalid:5000"), "host name is not known"),
    "silence": (lambda _: raw_server(None), "does not answer in time"),
    "ssh": (lambda _: raw_server(b"SSH-2.0-OpenSSH_9.6\r\n"), "another service"),
    "hangs up": (lambda _: raw_server(b""), "hangs up"),
    "a web server": (web((404, "<html>")), "another service"),
    "a page": (web((200, "<html>")), "another service"),
    "another API": (web((200, {"status": "ok"})), "another service"),
    "another API's experiment": (web((200, {"experiment": "x"})), "another service"),
    "authentication": (web((200, {}), authorization="Basic x"), "MLFLOW_TRACKING_USERNAME"),
    "authentication in words": (web((401, "<p>You are not authenticated.")), "MLFLOW_TRACKING_USERNAME"),
    "in trouble": (web((503, {})), "5xx"),
    "in a circle": (web((302, "")), "another service"),
    "no TLS": (as_https, "write http://"),
    "no scheme": (partial(at, "127.0.0.1:5000"), "is no address"),
    "another scheme": (partial(at, "gopher://127.0.0.1:5000"), "is no address"),
    "a broken address": (partial(at, "http://[::1"), "is no address"),
    "a folder": (partial(at, "file://{folder}/mlruns"), "is no address"),
    "no driver": (partial(at, "mysql+pymysql://127.0.0.1:1/x"), "pip install pymysql"),
    "no database": (no_database, "is no database"),
}


@pytest.mark.parametrize("case", TROUBLE)
def test_mlflow_that_cannot_be_used_is_one_line(
    case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, says = TROUBLE[case]
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with server(tmp_path) as uri:
        uri = uri.replace("://127", "://ann:secret@127")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        config = load_config("configs/demo.yaml", [f"root={tmp_path}/root", f"work_dir={tmp_path}/work"])
        started = time.monotonic()
        with Tracker(config, open_store(config.root), "key", {}) as tracker:
            assert tracker.run_id is None
        assert time.monotonic() - started < 10.0
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert says in warning and "\n" not in warning and "secret" not in warning, warning
    assert without_password(uri) in warning


@pytest.mark.parametrize(
    "uri, shown",
    [
        ("http://ann:secret@host:1/x", "http://host:1/x"),
        ("http://ann:se@cret@host", "http://host"),
        ("mysql+pymysql://ann:secret@host/db", "mysql+pymysql://host/db"),
        ("http://ann:secret@[::1", "http://[::1"),
        ("http://host/a@b", "http://host/a@b"),
        ("sqlite:////a/b@c.db", "sqlite:////a/b@c.db"),
        ("databricks", "databricks"),
    ],
)
def test_a_password_is_never_shown(uri: str, shown: str) -> None:
    assert without_password(uri) == shown


def test_the_ui_names_a_remote_server_and_a_port_that_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.environment.prepare_environment", lambda work_dir: None)  # it sets variables for good
    monkeypatch.setattr(PageServer, "wait", lambda self: None)
    arguments = ["ui", "configs/demo.yaml", "-s", f"work_dir={tmp_path}", "--root", f"{tmp_path}/root"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        other = free.getsockname()[1]
    environ = {"MLFLOW_TRACKING_URI": "http://ann:secret@host:5000"}
    remote = CliRunner().invoke(cli, [*arguments, "--port", str(other)], env=environ)
    assert "the runs of this config are on http://host:5000\n" in remote.output and "secret" not in remote.output
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for option, url in (("--port", f"127.0.0.1:{port}"), ("--mlflow-port", f"http://127.0.0.1:{port}")):
            more = ["--no-mlflow"] if option == "--port" else []
            refused = CliRunner().invoke(cli, [*arguments, option, str(port), *more])
            assert isinstance(refused.exception, SanaError)
            assert f"cannot listen on {url}" in str(refused.exception) and option in str(refused.exception)
