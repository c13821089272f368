"""A run of the stages without Prefect: what is planned is not asked again; observers hear all and harm nothing."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.cli.main import main
from flows.display.outcome import rows_of_plan
from flows.display.show import plan_table
from flows.local_run import LocalPrefect
from sana.artifact import Recipe
from sana.data.sources import source
from sana.errors import ConfigError, SanaError
from sana.pipeline import observers
from sana.pipeline.graph import stage
from sana.pipeline.observers import Committed, Event, Observer, RunStart, StageEnd, StageStart, WorkStart
from sana.pipeline.plan import plan, preflight
from sana.pipeline.run import Run, run_stage, run_stages
from sana.progress import Progress
from sana.store_errors import StoreError
from tests.pipeline_runs import Place, new_place


@pytest.fixture
def place(tmp_path: Path, tiny_model: Path) -> Place:
    return new_place(tmp_path, tiny_model)


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources that were listed so far."""
    found: list[str] = []
    real = source.list_source

    def counted(backend, uri, *more):
        found.append(uri)
        return real(backend, uri, *more)

    monkeypatch.setattr(source, "list_source", counted)
    return found


def test_a_source_is_listed_once_from_planning_to_the_end_of_download(place: Place, listed: list[str]) -> None:
    context = place.context().keeping_opened()
    plans = plan(context)
    preflight(context)
    with Run(context, plans=plans) as run:
        [done] = run_stages(run, ["download"])
    assert len(listed) == 1 and done.artifact.fingerprint == plans[0].fingerprint
    assert context.opened == {}, "a listing of ten million files is not held while it trains"


def test_no_plan_is_stale(place: Place, listed: list[str]) -> None:
    """Each run lists for itself, and so does an attempt after one that failed, which may have failed on the plan."""
    context = place.context()
    for number in (1, 2):
        with Run(context) as run:
            [done] = run_stages(run, ["download"])
        assert len(listed) == number and done.artifact.counts.num_in == 17 - number
        (place.clips / "bunny-00.mp4").unlink(missing_ok=True)
    with pytest.raises(StoreError), Run(context, force=["download"]) as run:

        def fail(*_: object) -> None:
            raise StoreError("the disk is full")

        run_stage(run, stage("download"), {}, before=fail)
    assert len(listed) == 3
    with run:
        run_stages(run, ["download"])
    assert len(listed) == 4


def test_a_recipe_is_made_once_from_planning_to_the_end(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def counted(name: str, recipe: Callable[..., Recipe]) -> Callable[..., Recipe]:
        return lambda *args: (made.append(name), recipe(*args))[1]

    names = ["download", "probe", "bucket"]
    for name in names:
        monkeypatch.setattr(stage(name), "recipe", counted(name, stage(name).recipe))
    for last in ("probe", "bucket"):  # the second time the first two are cached
        made.clear()
        context = place.context("download.datasets.0.max_rejected_fraction=1").keeping_opened()
        with Run(context, plans=plan(context, last=last)) as run:
            run_stages(run, names[: names.index(last) + 1])
        assert made == names[: names.index(last) + 1]


class Watcher(Observer):
    def __init__(self) -> None:
        self.heard: list[object] = []

    def on_run_start(self, start: RunStart) -> None:
        self.heard.append(start.title)

    def on_event(self, event: Event) -> None:
        state = getattr(event, "state", "")
        self.heard.append((type(event), event.stage, state))

    def on_stage_progress(self, stage: str, progress: Progress) -> None:
        if progress.done == progress.total and (stage, progress.done) not in self.heard:  # threads may end together
            self.heard.append((stage, progress.done))

    def on_run_end(self, error: BaseException | None) -> None:
        self.heard.append(error)


class Down(Observer):
    """A webhook whose server is gone."""

    def on_stage_progress(self, stage: str, progress: Progress) -> None:
        raise ConnectionRefusedError("nobody is there")


def test_an_observer_hears_the_run_and_one_that_is_down_costs_one_warning(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    watcher = Watcher()
    with Run(place.context(), title="demo", observers=[Down(), watcher]) as run:
        run_stages(run, ["download"])
    name = "download"
    begins: list[object] = ["demo", (StageStart, name, ""), (WorkStart, name, ""), (name, 16)]
    made = [(Committed, name, observers.COMPLETED), (StageEnd, name, observers.COMPLETED), None]
    assert watcher.heard == begins + made
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["Down no longer watches this run: nobody is there"]

    again = Watcher()
    with Run(place.context(), title="demo", observers=[again]) as run:
        run_stages(run, ["download"])
    found = [(Committed, name, observers.CACHED), (StageEnd, name, observers.CACHED), None]
    assert again.heard == [begins[0], begins[1], *found]


def test_an_observer_hears_which_error_ended_the_stage_and_the_run(place: Place) -> None:
    watcher = Watcher()
    context = place.context(f"download.datasets.0.source={place.folder}/nowhere")
    with pytest.raises(Exception, match="nowhere") as raised, Run(context, title="t", observers=[watcher]) as run:
        run_stages(run, ["download"])
    assert watcher.heard == ["t", (StageStart, "download", ""), (StageEnd, "download", "failed"), raised.value]


def test_a_bug_in_an_observer_is_not_hidden(place: Place) -> None:
    class Wrong(Observer):
        def on_event(self, event: Event) -> None:
            raise KeyError("a bug")

    with pytest.raises(KeyError), Run(place.context(), observers=[Wrong()]) as run:
        run_stages(run, ["download"])


def test_a_plan_says_where_the_run_would_stop_and_why(place: Place) -> None:
    with Run(place.context()) as run:
        run_stages(run, ["download"])
    plans = plan(place.context("download.datasets.0.max_rejected_fraction=0"))
    assert plans[0].state == "cached" and not any(p.stops for p in plans[1:])
    assert str(plans[0].stops).startswith(
        "download: download.datasets[demo]: 1 of 16 clips were rejected (1 no_caption); more than"
    )
    table = plan_table(plans).splitlines()
    assert "the run would stop here" in table[1] and all("not reached" in line for line in table[2:])
    states = [state for _, state, _ in rows_of_plan(plans)]
    assert states == ["failed", *["not reached"] * 7], "and so does the table of the run"


def test_forcing_what_until_leaves_out_is_an_error(place: Place) -> None:
    with pytest.raises(ConfigError, match="--force train would do nothing: train comes after probe, where --until"):
        plan(place.context(), last="probe", force=["train"])
    assert plan(place.context(), last="train", force=["train"])[-1].detail.endswith("forced, will run")


def test_prefect_starts_beside_planning_and_never_for_what_is_cached(
    place: Place, listed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(self: LocalPrefect) -> None:
        raise SanaError("Prefect starts")

    monkeypatch.setattr(LocalPrefect, "start", start)
    places = {"root": place.root, "work_dir": place.folder / "work", "download.datasets.0.source": place.clips}
    sets = [part for name, value in places.items() for part in ("-s", f"{name}={value}")]
    command = ["run", "configs/demo.yaml", *sets, "-s", f"model.path={place.model}", "--until", "download"]
    with pytest.raises(SystemExit):
        main(command)
    said = capsys.readouterr().err
    assert "looking at what is done" in said.splitlines()[0] and "Prefect starts" in said and listed == []
    with Run(place.context()) as run:
        run_stages(run, ["download"])
    main(command)
    assert "every stage is cached" in capsys.readouterr().out
