"""`--json` and exit codes: every command has the one and keeps to the others."""

import errno
import json
import os
import signal
import sys
from pathlib import Path

import click
import pytest

from flows.cli.main import cli, main
from flows.cli.output.documents import ReportDocument
from flows.cli.output.endings import KEPT
from flows.cli.output.exit_codes import TryAgainError, exit_code_of
from flows.cli.output.json_output import emit, is_json, json_option, wants_json
from flows.display.output_reference import WITHOUT, commands, lines
from sana.errors import ConfigError, LeaseHeldError, RankLostError, SanaError
from sana.runtime.launcher import WorkerAgainError, WorkerKilledError
from sana.store_errors import StoreAwayError, StoreError, StoreFullError

Captured = pytest.CaptureFixture[str]


def fails(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_reasons_are_of_commands_that_are_there() -> None:
    assert set(WITHOUT) <= {name for name, _ in commands()}
    listed = {name.split()[0] for name, _ in commands()}
    assert listed == {name for name, command in cli.commands.items() if not command.hidden}


def test_a_plan_is_one_document_on_stdout(tmp_path: Path, capsys: Captured) -> None:
    main(["plan", "configs/demo.yaml", "--json", "--root", str(tmp_path / "r"), "-s", f"work_dir={tmp_path}/w"])
    plan = json.loads(capsys.readouterr().out)
    assert plan["format"] == 1 and [stage["name"] for stage in plan["stages"]][:2] == ["download", "probe"]


@pytest.mark.parametrize(
    ("arguments", "code", "kind", "said"),
    [
        (["plan", "no.yaml", "--json"], 1, "wrong", "there is no config no.yaml"),
        (["plan", "no.yaml", "--json", "--nosuch"], 2, "usage", "No such option '--nosuch'"),
        (["nosuch", "--json"], 2, "usage", "No such command 'nosuch'"),
        (["gc", "--json"], 1, "wrong", "name a config, or a root by --root"),
        (["lora", "merge", "--json"], 2, "usage", "Missing argument 'BASE'"),
    ],
)
def test_an_error_is_one_line_of_json_on_stderr(
    arguments: list[str], code: int, kind: str, said: str, capsys: Captured
) -> None:
    assert fails(*arguments) == code
    out, err = capsys.readouterr()
    failure = json.loads(err.splitlines()[-1])
    assert out == "" and (failure["kind"], failure["exit_code"]) == (kind, code) and said in failure["error"]


def test_without_json_an_error_is_text(capsys: Captured) -> None:
    assert fails("plan", "no.yaml") == 1
    assert capsys.readouterr().err.startswith("error: there is no config no.yaml")
    assert fails("plan", "--nosuch") == 2
    assert "No such option '--nosuch'" in capsys.readouterr().err


def test_a_flag_after_two_dashes_is_a_name() -> None:
    assert wants_json(["plan", "--json"]) and not wants_json(["check", "--", "--json"])


def test_what_libraries_print_goes_to_stderr(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command("noisy")
    @json_option("flows.cli.output.documents:ReportDocument")
    def noisy() -> None:
        print("from a library")
        click.echo("for people")
        emit(ReportDocument("<b>\x1b[31m.html"))
        assert is_json() == ("--json" in sys_argv)

    monkeypatch.setitem(cli.commands, "noisy", noisy)
    sys_argv = ["--json"]
    main(["noisy", "--json"])
    out, err = capsys.readouterr()
    assert json.loads(out) == {"format": 1, "page": "<b>\x1b[31m.html"} and "\x1b" not in out
    assert err == "from a library\nfor people\n"
    sys_argv = []
    main(["noisy"])
    assert capsys.readouterr().out == "from a library\nfor people\n"
    assert not is_json() and sys.stdout is not sys.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SanaError("x"), 1),
        (ConfigError("x"), 1),
        (StoreError("no permission"), 1),
        (StoreFullError("x"), 1),
        (WorkerKilledError("x"), 1),
        (StoreAwayError("x"), 75),
        (RankLostError("x"), 75),
        (LeaseHeldError("x"), 75),
        (WorkerAgainError("x"), 75),
        (TryAgainError("x"), 75),
    ],
)
def test_what_may_pass_has_an_exit_code_of_its_own(
    error: SanaError, code: int, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    @click.command("failing")
    def failing() -> None:
        raise error

    monkeypatch.setitem(cli.commands, "failing", failing)
    assert exit_code_of(error) == fails("failing") == code
    assert fails("failing", "--", "x") == 2, "usage comes first"
    assert "error: x" in capsys.readouterr().err or "permission" in str(error)


def test_a_full_disk_is_to_be_mended(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    @click.command("full")
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/x")

    monkeypatch.setitem(cli.commands, "full", full)
    assert fails("full") == 1 and "/x: the disk is full" in capsys.readouterr().err


def test_keys_of_maps_and_lists_are_on_the_page() -> None:
    page = "\n".join(lines())
    assert "| `stages.*.fingerprint` | string or null |" in page and "object of EvalLoss" in page
    assert "Mapping" not in page and "tuple" not in page and "| None" not in page


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["gc", "configs/demo.yaml"], "what was deleted is gone"),
        (["check", "clips"], "videos that were probed are not opened again"),
        (["lora", "merge"], "--to was not written"),
        (["plan", "configs/demo.yaml"], "the same command begins again"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_says_what_is_kept_and_how_to_go_on(
    words: list[str], kept: str, as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "invoke", interrupted)
    assert fails(*words, *["--json"] * as_json) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    if as_json:
        failure = json.loads(last)
        assert (failure["kind"], failure["exit_code"]) == ("stopped", 130) and kept in failure["kept"]
    else:
        assert last.startswith("stopped; ") and kept in last


def test_what_is_kept_is_told_of_commands_that_are_there() -> None:
    assert set(KEPT) <= {name.split()[-1] for name, _ in commands()} | {"watch"}


@pytest.mark.parametrize("as_json", [False, True])
def test_sigterm_closes_what_is_open_and_says_what_is_kept(
    as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    closed, sent = [], []

    def terminated(*_: object, **__: object) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            closed.append(True)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(cli, "invoke", terminated)
    monkeypatch.setattr(os, "kill", lambda _pid, number: sent.append((number, signal.getsignal(number))))
    assert fails("export", "--root", "x", "--to", "y", *["--json"] * as_json) == 143
    assert closed == [True] and sent == [(signal.SIGTERM, signal.SIG_DFL)]
    assert signal.getsignal(signal.SIGTERM) == before
    last = capsys.readouterr().err.splitlines()[-1]
    said = json.loads(last)["kept"] if as_json else last
    assert "objects that were copied whole are kept, and the same command copies the others" in said
