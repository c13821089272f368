"""A Prefect server that cannot be used is one line, at once, with the remedy; proxies and settings are the user's."""

import base64
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path

import httpx
import prefect
import pytest
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, Settings, temporary_settings

from flows import server_check
from flows.environment import importing_prefect, prefect_is_configured, settings_error
from flows.server import TemporaryServer
from flows.server_check import check_server
from sana.errors import SanaError
from tasks.proxies import THIS_MACHINE, proxy_for, spare_loopback
from tests.loopback_servers import free_port, own_certificate, raw_server, web_server

VERSION = "/api/admin/version"
Server = Callable[[Path], AbstractContextManager[str]]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_check, "TIMEOUT_S", httpx.Timeout(0.5))
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def web(answers: dict[str, tuple[int, object]], **options: object) -> Server:
    return lambda _: web_server(answers, **options)  # type: ignore[arg-type]


def of_version(version: object, path: str = VERSION, **options: object) -> Server:
    return web({path: (200, version)}, **options)


@contextmanager
def nowhere(host: str, _: Path) -> Iterator[str]:
    yield f"{host}:{free_port()}"


@contextmanager
def as_http(folder: Path) -> Iterator[str]:
    with web_server({VERSION: (200, "3.8.8")}, tls=own_certificate(folder)) as url:
        yield url.replace("https", "http")


@contextmanager
def as_https(folder: Path) -> Iterator[str]:
    with web_server({VERSION: (200, "3.8.8")}) as url:
        yield url.replace("http", "https")


WRONG: dict[str, tuple[Server, str, list[str]]] = {
    # what is there, the path that is configured, what the line says
    "refused": (partial(nowhere, "http://127.0.0.1"), "/api", ["refuses connections", "prefect server start"]),
    "no such port": (lambda _: nullcontext("http://127.0.0.1:99999"), "/api", ["a port that is none"]),
    "no such host": (partial(nowhere, "http://prefect.invalid"), "/api", ["host name that is not known"]),
    "no scheme": (partial(nowhere, "127.0.0.1"), "/api", ["is no address", "http://127.0.0.1:4200/api"]),
    "silence": (lambda _: raw_server(None), "/api", ["does not answer within 0.5 s"]),
    "ssh": (lambda _: raw_server(b"SSH-2.0-OpenSSH_9.6\r\n"), "/api", ["another service"]),
    "hangs up": (lambda _: raw_server(b""), "/api", ["another service, or breaks off"]),
    "no /api": (of_version("3.8.8", otherwise=(200, "<html>the UI")), "", ["/api: add /api"]),
    "no /api, 404": (of_version("3.8.8"), "/", ["/api: add /api"]),
    "a page": (web({}, otherwise=(200, "<html>hello")), "/api", ["is not Prefect's API"]),
    "another API": (web({}, otherwise=(200, {"status": "ok"})), "/api", ["is not Prefect's API"]),
    "a web server": (web({}), "/api", ["is not Prefect's API (404 Not Found)"]),
    "in a circle": (web({}, otherwise=(302, "")), "/api", ["redirects"]),
    "starting": (web({}, otherwise=(503, {})), "/api", ["is not ready (503)"]),
    "authentication": (of_version("3.8.8", authorization="Basic x"), "/api", ["(401)", "PREFECT_API_AUTH_STRING="]),
    "forbidden": (web({}, otherwise=(403, {})), "/api", ["(403)"]),
    "older": (of_version("2.20.4"), "/api", ["is Prefect 2.20, older than", "use one of 3.x"]),
    "newer": (of_version("4.0.0"), "/api", ["is Prefect 4.0, newer than", "use one of 3.x"]),
    "http to https": (as_http, "/api", ["write https://"]),
    "https to http": (as_https, "/api", ["write http://"]),
    "own certificate": (
        lambda folder: web_server({}, tls=own_certificate(folder)),
        "/api",
        ["PREFECT_API_SSL_CERT_FILE"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_server_that_cannot_be_used_is_one_line_at_once(case: str, tmp_path: Path) -> None:
    server, path, words = WRONG[case]
    started = time.monotonic()
    with (
        server(tmp_path) as url,
        temporary_settings({PREFECT_API_URL: f"{url}{path}"}),
        pytest.raises(SanaError) as raised,
    ):
        check_server()
    assert time.monotonic() - started < 5.0
    message = str(raised.value)
    assert "\n" not in message and url in message and "PREFECT_API_URL= sana run" in message
    assert [word for word in words if word not in message] == [], message


def test_credentials_are_sent_and_a_wrong_one_is_said_but_not_shown() -> None:
    right = f"Basic {base64.b64encode(b'ann:secret').decode()}"
    with web_server({VERSION: (200, prefect.__version__)}, authorization=right) as url:
        with temporary_settings({PREFECT_API_URL: f"{url}/api", PREFECT_API_AUTH_STRING: "ann:secret"}):
            check_server()
        with temporary_settings({PREFECT_API_URL: f"{url}/api", PREFECT_API_AUTH_STRING: "ann:guess"}):
            with pytest.raises(SanaError, match="does not accept the PREFECT_API_AUTH_STRING") as raised:
                check_server()
            assert "guess" not in str(raised.value)
    with temporary_settings({PREFECT_API_URL: f"http://ann:secret@127.0.0.1:{free_port()}/api"}):
        with pytest.raises(SanaError, match="refuses connections") as raised:
            check_server()
        assert "secret" not in str(raised.value)


def test_a_minor_version_that_is_older_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with web_server({VERSION: (200, "3.1.0")}) as url, temporary_settings({PREFECT_API_URL: f"{url}/api"}):
        check_server()
    assert "the Prefect server is 3.1, older than" in caplog.text


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_loopback_needs_no_proxy_and_the_rest_keeps_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy is a server that answers in the name of any other: a remote server is found behind it."""
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    remote = "http://prefect.invalid:4200/api/admin/version"
    with web_server({VERSION: (200, "3.8.8")}) as here, web_server({remote: (200, "2.0.0")}) as proxy:
        monkeypatch.setenv(name, proxy)
        with temporary_settings({PREFECT_API_URL: f"{here}/api"}):
            with pytest.raises(SanaError):
                check_server()  # as it was: through the proxy, which does not know it
            assert spare_loopback() == []
            check_server()
        with (
            temporary_settings({PREFECT_API_URL: "http://prefect.invalid:4200/api"}),
            pytest.raises(SanaError, match=r"is Prefect 2\.0"),
        ):
            check_server()


@pytest.mark.parametrize(
    "before, after",
    [
        ({}, {}),
        ({"no_proxy": "a.org"}, {"no_proxy": "a.org"}),
        ({"http_proxy": ""}, {"http_proxy": ""}),
        ({"http_proxy": "p"}, {"no_proxy": ["+"], "NO_PROXY": ["+"]}),
        ({"http_proxy": "p", "NO_PROXY": "a.org, 127.0.0.1"}, {"no_proxy": ["a.org", "+"], "NO_PROXY": ["a.org", "+"]}),
        (
            {"ALL_PROXY": "p", "no_proxy": ".b", "NO_PROXY": ".a"},
            {"no_proxy": [".b", "+"], "NO_PROXY": [".a", "+"]},
        ),
        ({"https_proxy": "p", "no_proxy": "*"}, {"no_proxy": "*"}),
    ],
)
def test_no_proxy_keeps_the_users_entries(before: dict[str, str], after: dict[str, object]) -> None:
    environ = dict(before)
    spare_loopback(environ)
    for name, want in after.items():
        if isinstance(want, list):
            users = [entry for entry in want if entry != "+"]
            assert environ[name].split(",")[: len(users)] == users
            assert set(environ[name].split(",")) == {*users, *THIS_MACHINE}
        else:
            assert environ[name] == want
    spare_loopback(again := dict(environ))
    assert again == environ


def test_a_socks_proxy_without_its_package_does_not_stop_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.proxies.find_spec", lambda name: None)
    environ = {"all_proxy": "socks5h://ann:secret@127.0.0.1:1080", "http_proxy": "http://127.0.0.1:3128"}
    (warning,) = spare_loopback(environ)
    assert "all_proxy" in warning and "socksio" in warning and "secret" not in warning
    assert "all_proxy" not in environ and environ["http_proxy"] == "http://127.0.0.1:3128"


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_a_proxy_that_does_not_work_is_what_is_blamed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the server, which may well run; nor is a server that needs no proxy said to be behind one."""
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    dead = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv(name, f"http://ann:secret@{dead}")
    remote = "http://prefect.invalid:4200/api"
    with temporary_settings({PREFECT_API_URL: remote}), pytest.raises(SanaError) as raised:
        check_server()
    said = str(raised.value)
    assert f"through the proxy http://{dead} ({name}); mend that, or add prefect.invalid to no_proxy" in said
    assert "refuses connections" not in said and "secret" not in said
    assert proxy_for(remote) == (f"http://ann:secret@{dead}", name)
    for spared in (".invalid", "prefect.invalid", "*", "a.org, prefect.invalid:4200"):
        assert proxy_for(remote, {name: dead, "no_proxy": spared}) is None, spared
    with raw_server(None) as silent:
        monkeypatch.setenv(name, silent)
        with temporary_settings({PREFECT_API_URL: remote}), pytest.raises(SanaError, match="through the proxy"):
            check_server()


def test_a_proxy_that_is_no_address_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "gopher://127.0.0.1:1")
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}), pytest.raises(SanaError, match="http_proxy"):
        check_server()


@pytest.mark.parametrize(
    "files, environ, configured",
    [
        ({}, {}, False),
        ({"pyproject.toml": "[project]\nname = 'x'"}, {}, False),
        ({"pyproject.toml": "[tool.prefect.api]\nurl = 'http://x/api'"}, {}, True),
        ({"prefect.toml": "[api]\nurl = 'http://x/api'"}, {}, True),
        ({".env": "PREFECT_API_URL=http://x/api"}, {}, True),
        ({".env": "AWS_PROFILE=x"}, {}, False),
        ({"home/profiles.toml": ""}, {}, True),
        ({}, {"PREFECT_API_URL": "http://x/api"}, True),
        ({"home/profiles.toml": ""}, {"PREFECT_API_URL": ""}, False),
        ({"other.toml": ""}, {"PREFECT_PROFILES_PATH": "other.toml"}, True),
    ],
)
def test_every_place_of_prefects_settings_is_looked_at(
    files: dict[str, str], environ: dict[str, str], configured: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("PREFECT_API_URL", "PREFECT_PROFILES_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"PREFECT_HOME": str(tmp_path / "home"), **environ}.items():
        monkeypatch.setenv(name, value)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert prefect_is_configured() is configured


def test_a_temporary_server_that_ends_is_one_line_at_once(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-c", "raise SystemExit('no space left on device')"], stderr=out)
    server = TemporaryServer(process, f"http://127.0.0.1:{free_port()}/api", log)
    with pytest.raises(SanaError) as raised:
        server.wait_until_up()
    assert "exit code 1" in str(raised.value) and "no space left on device" in str(raised.value)
    assert str(log) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["abc", "-1x"])
def test_a_setting_of_the_wrong_type_is_named(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_REQUEST_TIMEOUT", text)
    with pytest.raises(ValueError) as raised:
        Settings()
    message = str(settings_error(raised.value))
    assert "request_timeout" in message and text in message and "\n" not in message


@pytest.mark.parametrize("fails", [True, False])
def test_what_prefect_writes_of_its_settings_is_left_out_where_the_error_says_it(
    fails: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = pytest.raises(SanaError, match="does not take its settings \\(no TOML\\)") if fails else nullcontext()
    with expected, importing_prefect():
        taken = sys.stderr  # as a handler of logs does that is made meanwhile
        print("Failed to initialize plugins: ...", file=sys.stderr)
        if fails:
            raise ValueError("no TOML")
    print("later", file=taken)
    said = capsys.readouterr().err
    assert said == ("" if fails else "Failed to initialize plugins: ...\nlater\n")
