"""What is reached by the network: ports of this machine, Prefect, MLflow, and a clock to compare with."""

import os
import socket
import sqlite3
import time
from collections.abc import Iterable
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from flows.doctor.child import ProbeError, ProbeLateError, run_probe
from flows.doctor.facts import PrefectFacts
from flows.doctor.finding import Finding, fail, ok, warn
from flows.doctor.subject import Subject
from flows.environment import prefect_is_configured
from sana.data.sources import hub
from sana.wording import counted, one_line, without_password

PORTS = {4200: "Prefect's server", 5000: "the page of sana ui", 5001: "MLflow of sana ui"}
_OURS = ("prefect", "mlflow", "sana")  # in the command of a process that may well have such a port
PREFECT_LIMIT_S, HTTP_TIMEOUT_S, CLOCK_TIMEOUT_S = 25.0, 6.0, 3.0
_SKEW_WARN_S, _SKEW_FAIL_S = 30.0, 900.0  # S3 refuses what is signed a quarter of an hour off
_DAY_S = 86400.0
_now = time.time  # this machine's clock


def check_ports() -> Finding:
    """Whether the PORTS of `sana ui` and of Prefect's server are free, and whose it is if not."""
    return judge_ports({port: listener_of(port) for port in PORTS})


def listener_of(port: int, host: str = "127.0.0.1") -> str | None:
    """Return who listens on a port of this machine, "" if that is not to be seen, or None: it is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            pass
        else:
            return None
    try:
        connections = psutil.net_connections(kind="tcp")
        listening = [one for one in connections if one.status == psutil.CONN_LISTEN and one.laddr[1] == port]
        pid = next((one.pid for one in listening if one.pid), None)
        if pid is None:
            return ""
        process = psutil.Process(pid)
        return f"{process.name()} (pid {pid}, {process.username()}): {' '.join(process.cmdline())}"[:300]
    except (psutil.Error, OSError):
        return ""


def judge_ports(listeners: dict[int, str | None]) -> Finding:
    """Judge who listens on each port; None: nobody."""
    parts, taken = [], []
    for port, listener in listeners.items():
        if listener is None:
            parts.append(f"{port} free")
            continue
        who, _, command = listener.partition(": ")
        parts.append(f"{port} taken by {who or 'a process of another user'}")
        if not any(name in command for name in _OURS):
            taken.append(port)
    said = ", ".join(parts)
    if not taken:
        return ok(said)
    remedies = {
        4200: "prefect server start --port 4201, and PREFECT_API_URL",
        5000: "sana ui CONFIG --port 5002",
        5001: "sana ui CONFIG --mlflow-port 5003",
    }
    return warn(said, "; ".join(remedies[port] for port in taken))


def check_prefect() -> Finding:
    """Prefect's server, if one is set: asked as `sana run` asks it."""
    if not prefect_is_configured():
        return ok("no server is set: sana run starts one of its own for each run")
    try:
        facts = run_probe(PrefectFacts, limit_s=PREFECT_LIMIT_S)
    except ProbeLateError as error:
        return warn(f"Prefect was not asked: {error}", "ask again when the machine is less busy")
    except ProbeError as error:
        return fail(f"Prefect cannot be asked: {error}", "PREFECT_API_URL= sana run ... goes without that server")
    found, _, remedy = facts.trouble.partition("; ")
    if found:
        return fail(found, remedy)
    return ok(f"the server {facts.url} answers ({facts.origin})")


def check_mlflow(subject: Subject) -> Finding:
    """Where runs are recorded: a database in work_dir, or a server."""
    uri = (subject.config.tracking.uri if subject.config else None) or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return _database(Path(subject.work_dir).absolute() / "mlflow.db")
    if uri.startswith("sqlite:///"):
        return _database(Path(uri.removeprefix("sqlite:///")))
    if not uri.startswith(("http://", "https://")):
        return ok(f"runs go to {without_password(uri)}, which is not tried here")
    return _server(uri.rstrip("/"))


def _database(path: Path) -> Finding:
    if not path.exists():
        return ok(f"no server is set: the first run makes {path}")
    try:
        with sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=2) as found:
            [num] = found.execute("select count(*) from runs").fetchone()
    except sqlite3.Error as error:
        return fail(f"{path} cannot be read: {error}", "move it away: a new one is made, and root has all results")
    return ok(f"{counted(num, 'run')} in {path}")


def _server(uri: str) -> Finding:
    """Ask for one experiment, which needs the right to read."""
    shown = without_password(uri)
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token and not user else {}
    try:
        answer = httpx.get(
            f"{uri}/api/2.0/mlflow/experiments/search",
            params={"max_results": 1},
            headers=headers,
            auth=(user, password or "") if user else None,
            timeout=HTTP_TIMEOUT_S,
        )
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        text = without_password(one_line(error, with_type=True, most=120))
        return judge_mlflow(shown, None, is_json=False, error=text)
    return judge_mlflow(shown, answer.status_code, is_json="json" in answer.headers.get("content-type", ""))


def judge_mlflow(shown: str, status: int | None, *, is_json: bool, error: str = "") -> Finding:
    """Judge the answer of a tracking server; `status` None: there was none."""
    alone = "or unset tracking.uri and MLFLOW_TRACKING_URI: runs are then recorded in work_dir"
    if status is None:
        return fail(f"the server {shown} is not reached ({error})", f"start it, or mend its address; {alone}")
    if status in (401, 403):
        return fail(
            f"the server {shown} wants other credentials ({status})", "set MLFLOW_TRACKING_USERNAME and _PASSWORD"
        )
    if status in (429, 502, 503, 504):
        return warn(f"the server {shown} is not ready ({status})", "try again when it is")
    if status != 200 or not is_json:
        return fail(f"{shown} is no tracking server of MLflow's ({status})", f"mend its address; {alone}")
    return ok(f"the server {shown} answers")


def check_clock(subject: Subject) -> Finding:
    """This machine's clock against the first server that says what time it is."""
    for url in _clocks(subject):
        offset_s = offset_to(url)
        if offset_s is not None:
            return judge_clock(offset_s, without_password(urlsplit(url).netloc))
    newest = max((path.stat().st_mtime for path in Path(__file__).parent.glob("*.py")), default=0.0)
    return judge_clock_alone(_now(), newest)


def _clocks(subject: Subject) -> Iterable[str]:
    own = (subject.config.tracking.uri if subject.config else None) or os.environ.get("MLFLOW_TRACKING_URI") or ""
    if subject.s3_places:  # what is signed for it must be in time
        yield subject.s3_endpoint
    yield from (url for url in (os.environ.get("PREFECT_API_URL") or "", own) if url.startswith("http"))
    if not hub.is_offline():
        yield hub.endpoint()


def offset_to(url: str) -> float | None:
    """Return the seconds that this clock is ahead of the server's; None if it does not say its time."""
    try:
        before = _now()
        answer = httpx.head(url, timeout=CLOCK_TIMEOUT_S, headers={"Cache-Control": "no-cache"})
        middle = (before + _now()) / 2
        age_s = float(answer.headers.get("age", 0))  # of an answer that a cache gave
        return middle - age_s - 0.5 - parsedate_to_datetime(answer.headers["date"]).timestamp()  # it has whole seconds
    except (httpx.HTTPError, httpx.InvalidURL, KeyError, ValueError, TypeError):
        return None


def judge_clock(offset_s: float, server: str) -> Finding:
    """Judge the seconds that this clock is ahead."""
    said = f"{abs(offset_s):,.0f} s {'ahead of' if offset_s > 0 else 'behind'} {server}"
    remedy = "set it, or switch on NTP (timedatectl set-ntp true)"
    if abs(offset_s) > _SKEW_FAIL_S:
        return fail(said, f"{remedy}: S3 refuses a clock that is 15 minutes off")
    if abs(offset_s) > _SKEW_WARN_S:
        return warn(said, f"{remedy}: leases and times in records go by it")
    return ok(f"as {server} to the second" if abs(offset_s) < 2 else said)


def judge_clock_alone(now_s: float, newest_file_s: float) -> Finding:
    """Judge a clock that no server was found to compare with: is it behind the files of this program?"""
    said = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now_s))
    if now_s < newest_file_s - _DAY_S:
        return fail(f"{said}, before this program's own files were made", "set it (timedatectl set-ntp true)")
    return ok(f"{said}; no server was reached to compare it with")
