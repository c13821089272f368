"""`sana doctor`: a verdict for each thing that can be wrong, each check alone, no secret, one screen."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement

from flows.cli.main import cli
from flows.doctor import child, credentials, examination, machine, places, services
from flows.doctor.facts import DecoderFacts, ProbeFacts, TorchFacts
from flows.doctor.finding import Check, Diagnosis, Finding, Line, diagnose, fail, ok, warn
from flows.doctor.places import Disk
from flows.doctor.subject import Subject
from flows.doctor.text import lines_of
from sana.data.sources import hub
from sana.store_credentials import FoundCredentials, find_credentials
from tests.loopback_servers import web_server

GIB = 2**30
CPU_BUILD = TorchFacts("2.9.0", None)
CUDA_BUILD = TorchFacts("2.9.0", "13.0", num_devices=1, works=True)
NO_DRIVER = TorchFacts("2.9.0", "13.0", error="driver too old")
H100 = machine.Gpu("NVIDIA H100", 80 * GIB, GIB, "580.10")


def says(finding: Finding, verdict: str, *words: str) -> None:
    assert finding.verdict == verdict, finding
    assert all(word in f"{finding.found} -> {finding.remedy}" for word in words), finding
    assert bool(finding.remedy) == (verdict != "ok"), "what is not ok says what to do, and nothing else does"


@pytest.mark.parametrize(
    ("gpus", "torch", "wanted", "visible", "verdict", "words"),
    [
        ([], CPU_BUILD, "auto", None, "warn", ["none; torch 2.9.0", "24 GB"]),
        ([], CPU_BUILD, "cpu", None, "ok", ["none"]),
        ([], CPU_BUILD, "cuda", None, "fail", ["asks for cuda"]),
        ([H100], CUDA_BUILD, "auto", None, "ok", ["1 GPU: NVIDIA H100, 80 GiB, driver 580.10", "CUDA 13.0"]),
        ([H100, H100], CUDA_BUILD, "auto", None, "ok", ["2 GPUs"]),
        ([H100], CPU_BUILD, "auto", None, "fail", ["build for the CPU", "docs/install-gpu.md"]),
        ([H100], NO_DRIVER, "auto", None, "fail", ["driver too old"]),
        ([H100], CUDA_BUILD, "auto", "-1", "warn", ["unset CUDA_VISIBLE_DEVICES"]),
        ([machine.Gpu("T4", 16 * GIB, 9 * GIB, "550")], CUDA_BUILD, "auto", None, "warn", ["9.0 GiB", "nvidia-smi"]),
        ([machine.Gpu("GB10", 0, 0, "580")], CUDA_BUILD, "auto", None, "ok", ["GB10"]),
        ([], CUDA_BUILD, "auto", None, "ok", ["1 GPU"]),
        ("nvidia-smi: Driver/library version mismatch", CUDA_BUILD, "auto", None, "fail", ["mismatch", "restart"]),
    ],
)
def test_gpu(gpus: Any, torch: TorchFacts, wanted: str, visible: str | None, verdict: str, words: list[str]) -> None:
    says(machine.judge_gpu(gpus, torch, wanted, visible=visible), verdict, *words)


@pytest.mark.parametrize(
    ("output", "code", "gpus"),
    [
        ("NVIDIA H100, 81559, 4, 580.1\nNVIDIA H100, 81559, 0, 580.1\n", 0, 2),
        ("NVIDIA GB10, [N/A], [N/A], 580.1\n", 0, 1),
        ("", 0, 0),
        ("NVIDIA-SMI has failed", 9, "nvidia-smi: NVIDIA-SMI has failed"),
    ],
)
def test_gpus_are_those_of_nvidia_smi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, code: int, gpus: int | str
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\nprintf '%s' '{output}'\nexit {code}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = machine.list_gpus()
    assert found == gpus if isinstance(gpus, str) else len(found) == gpus
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert machine.list_gpus() == []


@pytest.mark.parametrize(
    ("installed", "verdict", "words"),
    [
        ({"diffusers": "0.42.1", "torch": "2.9.0"}, "ok", ["diffusers 0.42.1", "prefect missing"]),
        ({"diffusers": "0.31.0", "torch": "2.9.0"}, "fail", ["diffusers 0.31.0, <0.44,>=0.40 is needed"]),
        ({"diffusers": "0.42.1", "torch": None}, "fail", ["torch is missing", "pip install"]),
        ({"diffusers": "0.43.0.dev0", "torch": "2.9.0+cu130"}, "ok", []),
    ],
)
def test_packages(installed: dict[str, str | None], verdict: str, words: list[str]) -> None:
    needed = [Requirement("diffusers>=0.40,<0.44"), Requirement("torch>=2.6")]
    says(machine.judge_packages(needed, dict.fromkeys(machine.SHOWN) | installed), verdict, *words)


def test_what_is_installed_here_is_what_is_needed() -> None:
    says(machine.check_packages(), "ok", "torch", "mlflow")
    says(machine.check_python(), "ok", "sana-video-pipeline")


@pytest.mark.parametrize(
    ("installed", "of_clone", "verdict", "words"),
    [
        ("0.2.0", "0.2.0", "ok", ["sana 0.2.0"]),
        ("0.2.0", None, "ok", ["sana 0.2.0"]),  # a wheel
        ("0.1.0", "0.2.0", "warn", ["sana 0.2.0, which pip still calls 0.1.0", "pip install -e ."]),
    ],
)
def test_the_version_is_that_of_the_clone_at_work(
    tmp_path: Path, installed: str, of_clone: str | None, verdict: str, words: list[str]
) -> None:
    says(machine.judge_version("sana", installed, of_clone), verdict, *words)
    project = tmp_path / "pyproject.toml"
    assert machine.version_of_clone(project) is None
    for text, found in (('[project]\nversion = "0.3.0"\n', "0.3.0"), ("[project]\n", None), ("[", None)):
        project.write_text(text)
        assert machine.version_of_clone(project) == found


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", ["the Prefect server nonsense (PREFECT_API_URL in the environment) is no address"]),
        ("http://me:secret@[::1/api", ["PREFECT_API_URL http://[::1/api is no address: Invalid IPv6 URL"]),
    ],
)
def test_an_address_of_prefect_that_is_none_is_told_in_plain_words(
    monkeypatch: pytest.MonkeyPatch, url: str, words: list[str]
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", url)
    found = services.check_prefect()
    says(found, "fail", *words)
    assert not any(word in found.found + found.remedy for word in ("pydantic", "validation", "secret"))


@pytest.mark.parametrize(
    ("colours", "verdict"), [(((210, 50, 44), (50, 45, 206)), "ok"), (((48, 48, 208), (208, 48, 48)), "fail")]
)
def test_decoder(colours: tuple[tuple[int, ...], ...], verdict: str) -> None:
    says(machine.judge_decoder(DecoderFacts(colours, av="18", decord2="3")), verdict, "PyAV 18")


@pytest.mark.timeout(60)
def test_a_real_frame_is_decoded() -> None:
    says(machine.check_decoder(), "ok", "h264")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("import os; os.kill(os.getpid(), 11)", "it crashed (SIGSEGV)"),
        ("raise ImportError('libavcodec.so.61: cannot open')", "ImportError: libavcodec.so.61: cannot open"),
        ("import time; time.sleep(60)", "no answer within 1 s"),
        ("pass", "exit code 0"),
        ("print('no JSON')", "no JSON"),
        (
            "raise ValueError('not this\\n    For further information visit https://errors.pydantic.dev')",
            "ValueError: not this",
        ),
    ],
)
def test_a_probe_that_breaks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, said: str) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {child.sys.executable} -c "{command}"\n')
    python.chmod(0o755)
    monkeypatch.setattr(child.sys, "executable", str(python))
    with pytest.raises(child.ProbeError) as caught:
        child.run_probe(DecoderFacts, limit_s=1)
    assert str(caught.value) == said


@pytest.mark.parametrize(("available", "verdict"), [(0.5, "fail"), (2.0, "warn"), (64.0, "ok")])
def test_memory(available: float, verdict: str) -> None:
    says(machine.judge_memory(round(available * GIB), 64 * GIB, 8), verdict, "of 64.0 GiB free, 8 CPUs")


@pytest.mark.parametrize(
    ("files", "size", "processes", "shm", "verdict", "words"),
    [
        (None, None, None, 8 * GIB, "ok", ["any number of open files", "8.0 GiB shared memory"]),
        (1024, None, None, None, "ok", ["1024 open files"]),
        (512, None, None, 8 * GIB, "warn", ["ulimit -n 4096"]),
        (100, None, None, 8 * GIB, "fail", ["ulimit -n 4096"]),
        (4096, GIB, None, 8 * GIB, "warn", ["files of 1.0 GiB at most", "ulimit -f"]),
        (4096, None, 100, 8 * GIB, "warn", ["100 processes", "--pids-limit"]),
        (4096, None, 4096, 64 * 2**20, "warn", ["64.0 MiB shared memory", "--shm-size"]),
    ],
)
def test_limits(files: Any, size: Any, processes: Any, shm: Any, verdict: str, words: list[str]) -> None:
    says(machine.judge_limits(files, size, processes, shm), verdict, *words)


ROOMY = Disk("/data", 100 * GIB, 200 * GIB, 10**7, "ext4")


@pytest.mark.parametrize(
    ("disk", "verdict", "words"),
    [
        (ROOMY, "ok", ["/data: 100.0 GiB of 200.0 GiB free"]),
        (Disk("/data", 5 * GIB, 200 * GIB, 10**7, "ext4"), "warn", ["18 GB"]),
        (Disk("/data", GIB // 2, 200 * GIB, 10**7, "ext4"), "fail", ["make room"]),
        (Disk("/data", 100 * GIB, 200 * GIB, 5, "ext4"), "fail", ["only 5 more files"]),
        (Disk("/data", 100 * GIB, 200 * GIB, None, "btrfs"), "ok", []),
        (Disk("/data", 100 * GIB, 200 * GIB, 10**7, "nfs4"), "warn", ["on nfs4", "local disk"]),
        (Disk("/data", 100 * GIB, 200 * GIB, 10**7, "tmpfs"), "warn", ["in memory"]),
        (Disk("/data", 100 * GIB, 200 * GIB, 10**7, "ext4", can_write=False), "fail", ["cannot be written"]),
        (Disk("/data", 100 * GIB, 200 * GIB, 10**7, "ext4", is_folder=False), "fail", ["a file is where"]),
    ],
)
def test_disk(disk: Disk, verdict: str, words: list[str]) -> None:
    says(places.judge_disk(disk, name="work_dir", needs_local=True), verdict, *words)
    if disk.kind == "nfs4":
        says(places.judge_disk(disk, name="root", needs_local=False), "ok")


def test_a_place_that_is_not_there_yet_is_on_the_disk_of_its_parent(tmp_path: Path) -> None:
    found = places.disk_of(tmp_path / "a" / "b")
    assert found.place == str(tmp_path / "a" / "b") and found.free_bytes > 0 and found.can_write
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").touch()
    assert not places.disk_of(tmp_path / "file" / "c").is_folder
    (tmp_path / "no").mkdir(mode=0o500)
    if not places.os.access(tmp_path / "no", places.os.W_OK):  # root may write all the same
        assert not places.disk_of(tmp_path / "no" / "x").can_write


@pytest.mark.parametrize(
    ("found", "needed_by", "verdict", "words"),
    [
        (FoundCredentials(""), [], "ok", ["none"]),
        (FoundCredentials(""), ["root"], "fail", ["root is in S3", "AWS_PROFILE"]),
        (FoundCredentials("the role of this machine"), ["root"], "ok", ["present, from the role"]),
        (FoundCredentials("", "Partial credentials found"), [], "warn", ["Partial"]),
        (FoundCredentials("", "Partial credentials found"), ["root"], "fail", ["Partial"]),
    ],
)
def test_s3_keys(found: FoundCredentials, needed_by: list[str], verdict: str, words: list[str]) -> None:
    says(credentials.judge_s3(found, needed_by, "http://u:hidden@127.0.0.1:1"), verdict, *words)
    assert "hidden" not in credentials.judge_s3(found, needed_by, "http://u:hidden@127.0.0.1:1").found


@pytest.fixture
def no_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No credentials in the environment; returns the credentials file, which is not there."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return tmp_path / "credentials"


@pytest.mark.parametrize(
    ("set_", "text", "origin", "trouble"),
    [
        ({}, "", "", ""),
        ({"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "s3cret"}, "", "AWS_ACCESS_KEY_ID in the env", ""),
        ({"AWS_ACCESS_KEY_ID": "AKIA"}, "", "", "AWS_SECRET_ACCESS_KEY"),
        ({}, "[default]\naws_access_key_id = AKIA\naws_secret_access_key = s3cret\n", "~/.aws/credentials", ""),
        ({"AWS_PROFILE": "gone"}, "", "", "profile (gone) could not be found"),
    ],
)
def test_credentials_are_found_along_the_chain_and_never_shown(
    no_aws: Path, monkeypatch: pytest.MonkeyPatch, set_: dict[str, str], text: str, origin: str, trouble: str
) -> None:
    if text:
        no_aws.write_text(text)
    for name, value in set_.items():
        monkeypatch.setenv(name, value)
    found = find_credentials()
    assert origin in found.origin and bool(origin) == bool(found.origin), found
    assert trouble in found.trouble and bool(trouble) == bool(found.trouble), found
    assert "s3cret" not in repr(found) and "AKIA" not in repr(found)


@pytest.mark.parametrize(
    ("origin", "status", "needed_by", "verdict", "words"),
    [
        ("HF_TOKEN", 200, [], "ok", ["token present, from HF_TOKEN", "takes it"]),
        ("HF_TOKEN", 401, [], "fail", ["does not take it (401)"]),
        ("HF_TOKEN", 404, [], "ok", ["answers (404)"]),
        ("", 401, ["model.path"], "ok", ["no token"]),
        ("", None, [], "ok", ["needs nothing of it"]),
        ("", None, None, "warn", ["not reached", "HF_HUB_OFFLINE=1"]),
        ("", None, ["model.path"], "warn", ["model.path is on it"]),
        ("HF_TOKEN", 503, [], "warn", ["not ready"]),
    ],
)
def test_hub(origin: str, status: int | None, needed_by: Any, verdict: str, words: list[str]) -> None:
    says(credentials.judge_hub(origin, "https://hub", status, needed_by, "no route"), verdict, *words)


def test_the_token_of_the_hub_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "is_offline", lambda: False)
    monkeypatch.setenv("HF_TOKEN", "hf_hidden\nx")  # no header may hold it: the error would say it
    monkeypatch.setenv("HF_ENDPOINT", "http://u:p4ss@127.0.0.1:1")
    found = credentials.check_hub(Subject(None))
    assert found.verdict == "warn" and "hf_hidden" not in repr(found) and "p4ss" not in repr(found)
    monkeypatch.setattr(hub, "is_offline", lambda: True)
    says(credentials.check_hub(Subject(None)), "ok", "HF_HUB_OFFLINE")


@pytest.mark.parametrize(
    ("listeners", "verdict", "words"),
    [
        ({4200: None, 5000: None}, "ok", ["4200 free, 5000 free"]),
        (
            {4200: "python (pid 7, me): python -m prefect.server", 5000: None},
            "ok",
            ["4200 taken by python (pid 7, me)"],
        ),
        ({4200: None, 5000: "AirPlay (pid 9, me): /usr/bin/airplay"}, "warn", ["AirPlay", "--port 5002"]),
        ({4200: "", 5000: None}, "warn", ["another user", "4201"]),
    ],
)
def test_ports(listeners: dict[int, str | None], verdict: str, words: list[str]) -> None:
    says(services.judge_ports(listeners), verdict, *words)


def test_who_has_a_port_is_found() -> None:
    with services.socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert f"pid {services.os.getpid()}" in (services.listener_of(port) or "")
    assert services.listener_of(port) is None


@pytest.mark.parametrize(
    ("offset_s", "verdict", "words"),
    [
        (0.7, "ok", ["as s to the second"]),
        (-12, "ok", ["12 s behind s"]),
        (100, "warn", ["100 s ahead of s", "NTP"]),
        (-1000, "fail", ["1,000 s behind", "15 minutes"]),
    ],
)
def test_clock(offset_s: float, verdict: str, words: list[str]) -> None:
    says(services.judge_clock(offset_s, "s"), verdict, *words)


@pytest.mark.parametrize(("now_s", "verdict"), [(1.8e9, "ok"), (0.0, "fail")])
def test_clock_alone(now_s: float, verdict: str) -> None:
    says(services.judge_clock_alone(now_s, 1.7e9), verdict)


@pytest.mark.parametrize(
    ("status", "is_json", "verdict", "words"),
    [
        (200, True, "ok", ["answers"]),
        (200, False, "fail", ["no tracking server"]),
        (404, True, "fail", ["no tracking server"]),
        (401, False, "fail", ["MLFLOW_TRACKING_USERNAME"]),
        (503, False, "warn", ["not ready"]),
        (None, False, "fail", ["not reached", "unset"]),
    ],
)
def test_mlflow(status: int | None, is_json: bool, verdict: str, words: list[str]) -> None:
    says(services.judge_mlflow("http://m", status, is_json=is_json, error="refused"), verdict, *words)


def test_servers_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub, MLflow and the clock, over HTTP: with credentials, with others, and with a clock that is off."""
    monkeypatch.setattr(hub, "is_offline", lambda: False)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    answers = {"/api/whoami-v2": (200, {}), "/api/2.0/mlflow/experiments/search?max_results=1": (200, {})}
    with web_server(answers, authorization="Bearer hf_right") as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        says(credentials.check_hub(Subject(None)), "ok", f"{url} takes it")
        says(services.check_mlflow(Subject(None)), "fail", "wants other credentials (401)")
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "hf_right")
        says(services.check_mlflow(Subject(None)), "ok", f"the server {url} answers")
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
        says(credentials.check_hub(Subject(None)), "fail", "does not take it")
        monkeypatch.setenv("HF_ENDPOINT", url)
        says(services.check_clock(Subject(None)), "ok", "127.0.0.1")
        monkeypatch.setattr(services, "_now", lambda: time.time() - 2000)
        says(services.check_clock(Subject(None)), "fail", "s behind 127.0.0.1")


@pytest.mark.parametrize(
    ("error", "verdict"), [(child.ProbeLateError("no answer"), "warn"), (child.ProbeError("crashed"), "fail")]
)
def test_a_busy_machine_is_no_broken_one(
    monkeypatch: pytest.MonkeyPatch, error: child.ProbeError, verdict: str
) -> None:
    def probe(kind: type[ProbeFacts], *, limit_s: float) -> ProbeFacts:
        raise error

    for module in (machine, services):
        monkeypatch.setattr(module, "run_probe", probe)
    monkeypatch.setattr(services, "prefect_is_configured", lambda: True)
    for finding in (machine.check_gpu(), machine.check_decoder(), services.check_prefect()):
        says(finding, verdict, str(error))


@pytest.mark.timeout(90)
def test_a_root_in_a_bucket_is_written_and_read(s3_root: str) -> None:
    says(places.check_root(Subject(None, s3_root)), "ok", s3_root)
    says(
        places.check_root(Subject(None, "s3://no-such-bucket/x")),
        "fail",
        "no-such-bucket",
        "does not exist -> create it",
    )
    says(places.check_root(Subject(None, "s3://")), "fail", "s3://bucket/prefix")


def test_a_damaged_database_of_mlflow_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    subject = Subject(None, work_dir=tmp_path)
    says(services.check_mlflow(subject), "ok", "the first run makes")
    (tmp_path / "mlflow.db").write_bytes(b"no database at all" * 100)
    says(services.check_mlflow(subject), "fail", "move it away")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://u:p4ss@127.0.0.1:1")
    found = services.check_mlflow(subject)
    says(found, "fail", "not reached")
    assert "p4ss" not in repr(found)


def _hang() -> Finding:
    time.sleep(30)
    return ok("never")


def _broken() -> Finding:
    raise ZeroDivisionError("of a driver")


def test_a_check_that_fails_or_hangs_ends_no_other() -> None:
    began = time.monotonic()
    checks = [Check("a", _hang, 0.2, "fail", "unplug it"), Check("b", _broken, 5), Check("c", lambda: ok("fine"), 5)]
    found = diagnose(checks)
    assert time.monotonic() - began < 5
    assert [(line.name, line.verdict) for line in found.checks] == [("a", "fail"), ("b", "fail"), ("c", "ok")]
    assert found.checks[0].found == "no answer within 0.2 s" and found.checks[0].remedy == "unplug it"
    assert "ZeroDivisionError: of a driver" in found.checks[1].found


@pytest.fixture
def three_checks(monkeypatch: pytest.MonkeyPatch) -> Callable[[Finding], None]:
    """What the command finds: one that is ok, one warning, and the finding that is given."""

    def found(last: Finding) -> None:
        checks = [ok("fine"), warn("low " * 30, "more of it " * 12), last]
        made = [Check(f"check{number}", lambda one=one: one, 5) for number, one in enumerate(checks)]
        monkeypatch.setattr(examination, "checks_of", lambda subject, config: made)

    return found


@pytest.mark.parametrize(("last", "code"), [(ok("good"), 0), (warn("w", "do"), 0), (fail("f", "mend"), 1)])
def test_exit_code_and_json(three_checks: Callable[[Finding], None], last: Finding, code: int) -> None:
    three_checks(last)
    shown = CliRunner().invoke(cli, ["doctor"])
    assert shown.exit_code == code, shown.output
    printed = CliRunner().invoke(cli, ["doctor", "--json"])
    assert printed.exit_code == code
    values = json.loads(printed.stdout)
    assert values["verdict"] == ("fail" if code else "warn")
    assert [line["name"] for line in values["checks"]] == ["check0", "check1", "check2"]
    assert Diagnosis.from_json(printed.stdout, where="doctor").checks[2].found == last.found


@pytest.mark.parametrize("width", [50, 80, 120])
def test_lines_fit_the_terminal_and_obey_no_control_character(width: int) -> None:
    told = "x\x1b[2Jy\u202e\nz " + "word " * 60
    lines = list(lines_of(Diagnosis("warn", (Line("root", "warn", told, told, 0.1),)), width))
    plain = [click.unstyle(line) for line in lines]
    assert max(map(len, plain)) <= width and plain[0].startswith("warn  root      x?[2Jy? z word")
    assert lines[0].count("\x1b") == 3 and not any("\x1b" in line for line in lines[1:])
    assert plain[-1] == "1 warn: nothing fails"


@pytest.mark.timeout(90)
def test_a_config_that_cannot_be_read_is_a_line_and_the_others_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "check_gpu", lambda wanted: ok("looked at elsewhere"))
    monkeypatch.setattr(machine, "check_decoder", lambda: ok("looked at elsewhere"))
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "my.yaml"
    config.write_text("train: {max_stpes: 3}\nroot: [\n")
    shown = CliRunner().invoke(cli, ["doctor", str(config), "--json"])
    lines = {line["name"]: line for line in json.loads(shown.stdout)["checks"]}
    assert shown.exit_code == 1 and lines["config"]["verdict"] == "fail" and len(lines) == 15
    assert not list(tmp_path.glob(".sana*")), "nothing is written"
