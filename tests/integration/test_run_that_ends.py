"""`sana run` that fails, is stopped or is terminated: what is done and how to continue, and the exit code as ever."""

import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from flows.cli import run as command
from flows.cli.main import main
from flows.display.progress_display import RunDisplay
from sana.artifact import Artifact
from sana.context import Context
from sana.errors import SanaError
from sana.pipeline.graph import stage
from sana.pipeline.run import Run, run_stage, run_stages
from sana.progress import Progress
from tests.pipeline_runs import Place, new_place

STAGES = ["download", "probe", "bucket", "encode_captions", "encode_latents", "train", "evaluate", "sample"]


class NoPrefect:
    """Starts nothing."""

    def __init__(self, *_: object) -> None:
        pass

    def start(self) -> None:
        pass

    stop = start


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr("sana.pipeline.plan.preflight", lambda _: [])  # there is no model here
    place: Place = new_place(tmp_path, tmp_path / "model")
    values = (f"work_dir={tmp_path}/work", f"model.path={place.model}", f"download.datasets.0.source={place.clips}")
    return ["configs/demo.yaml", "--root", place.root, *(word for value in values for word in ("-s", value))]


def failing_in(monkeypatch: pytest.MonkeyPatch, error: Callable[[], None]) -> None:
    """Let a run download, and then end in probe, as `error` does, when 7 of 15 videos are probed."""

    def run_flow(_prefect: object, context: Context, _plans: object, display: RunDisplay, *_: object, **__: object):
        def before(within: Context, _inputs: Mapping[str, Artifact]) -> None:
            within.report(Progress(7, 15, "videos"))
            error()

        with display, Run(context, observers=[display]) as run:
            [done] = run_stages(run, ["download"])
            run_stage(run, stage("probe"), {"clips": done.artifact}, before=before)

    monkeypatch.setattr(command, "_run_flow", run_flow)
    monkeypatch.setattr(command, "LocalPrefect", NoPrefect)


def fail() -> None:
    raise SanaError("the disk is full; make room")


def interrupt() -> None:
    raise KeyboardInterrupt


def requeue() -> None:
    signal.raise_signal(signal.SIGUSR1)


def terminate() -> None:
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    ("error", "state", "told", "code", "last"),
    [
        (
            fail,
            "failed",
            "failed at 7/15 videos; when that is mended, run it again",
            1,
            "error: the disk is full; make",
        ),
        (interrupt, "stopped", "stopped at 7/15 videos; run it again", 130, "stopped; what was finished is kept"),
        (requeue, "stopped", "stopped at 7/15 videos; run it again", 75, "stopped by SIGUSR1; what was finished"),
    ],
)
def test_the_table_and_the_way_on_come_before_the_error(
    arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    error: Callable[[], None], state: str, told: str, code: int, last: str,
) -> None:  # fmt: skip
    failing_in(monkeypatch, error)
    with pytest.raises(SystemExit) as ended:
        main(["run", *arguments, "--until", "train"])
    out, err = capsys.readouterr()
    assert ended.value.code == code and err.splitlines()[-1].startswith(last)
    table = out[: out.index("artifacts are under")].splitlines()[1:]
    rows = {line.split()[0]: line for line in table}
    assert list(rows) == STAGES[:6], "up to train"
    assert rows["download"].split()[1:5] == ["completed", "16", "15", "1"]
    assert rows["probe"].split() == ["probe", state, "7/15", "videos", "done"]
    assert all(rows[name].split()[1:] == ["not", "reached"] for name in STAGES[2:6])
    assert (
        out.splitlines()[-1] == f"probe {told}: sana run {' '.join(arguments[:1] + in_order(arguments))} --until train"
    )
    assert f"probe: {state} after 0:00 at 7/15 videos" in err and "probe: completed" not in err


def in_order(arguments: Sequence[str]) -> list[str]:
    """The options as they are printed: --root last."""
    return [*arguments[3:], *arguments[1:3]]


def test_sigterm_is_told_and_then_ends_the_process_as_ever(
    arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)  # another test's worker, in this process, may have left one
    sent: list[tuple[int, object]] = []
    monkeypatch.setattr(os, "kill", lambda _pid, number: sent.append((number, signal.getsignal(number))))
    failing_in(monkeypatch, terminate)
    with pytest.raises(SystemExit) as ended:
        main(["run", *arguments])
    assert sent == [(signal.SIGTERM, signal.SIG_DFL)] and ended.value.code == 143
    out, err = capsys.readouterr()
    assert "\nprobe stopped at 7/15 videos; run it again: sana run" in out
    assert err.splitlines()[-1].startswith("stopped by SIGTERM; what was finished is kept")
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("error", "state", "code", "kind"),
    [(fail, "failed", 1, "wrong"), (interrupt, "stopped", 130, "stopped"), (requeue, "stopped", 75, "stopped")],
)
def test_a_program_reads_what_was_done_and_how_to_continue(
    arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    error: Callable[[], None], state: str, code: int, kind: str,
) -> None:  # fmt: skip
    failing_in(monkeypatch, error)
    with pytest.raises(SystemExit) as ended:
        main(["run", *arguments, "--until", "train", "--json"])
    out, err = capsys.readouterr()
    done, failure = json.loads(out), json.loads(err.splitlines()[-1])
    assert (ended.value.code, failure["exit_code"], failure["kind"]) == (code, code, kind)
    assert done["state"] == state and ("make room" in done["error"]) == (error is fail)
    stages = {stage["name"]: stage for stage in done["stages"]}
    assert list(stages) == STAGES[:6] and stages["download"]["num_out"] == 15
    assert (stages["probe"]["state"], stages["probe"]["done"]) == (state, "7/15 videos done")
    assert done["model"] is None and done["how_to_continue"][0].startswith(f"probe {state} at 7/15 videos")
