"""Bad input, bad places: one clear message, exit code not 0, and nothing half-committed."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows.cli.main import main
from sana.artifact import Artifact
from sana.config.load import load_config
from sana.context import Context
from sana.errors import SanaError
from sana.pipeline.plan import plan
from sana.pipeline.run import Run
from sana.pipeline.run import run_stages as run_all
from sana.store import open_store
from tests.pipeline_runs import CLIPS, ROOT, inline_workers, new_place, run_alone, run_stages

pytestmark = pytest.mark.timeout(240)

SANA = [sys.executable, "-m", "flows.cli.main"]
# the same command, which counts how often a source is listed
SANA_COUNTED = [sys.executable, "-c", """
import sys
from flows.cli.main import main
from sana.data.sources import source
listed, real = [], source.list_source
source.list_source = lambda *given: (listed.append(given), real(*given))[1]
try:
    main(sys.argv[1:])
finally:
    print(len(listed), "listings")
"""]  # fmt: skip


Done = subprocess.CompletedProcess


def run_of(tmp_path: Path, model: Path | str, *arguments: str) -> list[str]:
    """Return the arguments of `sana run` on the demo's config, with places of its own."""
    places = [f"root={tmp_path}/root", f"work_dir={tmp_path}/work", f"model.path={model}"]
    return ["run", "configs/demo.yaml", *(part for pair in [*places, *arguments] for part in ("-s", pair))]


def sana(tmp_path: Path, model: Path | str, *arguments: str, command=SANA, env=None) -> Done:
    """Run `sana run` in a process of its own, as users do."""
    return subprocess.run(
        [*command, *run_of(tmp_path, model, *arguments)], capture_output=True, text=True, cwd=ROOT, timeout=200,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_HOME": str(tmp_path / "prefect"), **(env or {})},
    )  # fmt: skip


@pytest.fixture
def sana_here(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Done]:
    """Run `sana run` in this process: for what ends before Prefect is needed, whose server is left out."""
    monkeypatch.setattr("flows.local_run.LocalPrefect.start", lambda self: None)

    def call(*arguments: str, model: Path | str = tiny_model) -> Done:
        with pytest.raises(SystemExit) as ended:
            main(run_of(tmp_path, model, *arguments))
        said = capsys.readouterr()
        return Done([], int(ended.value.code or 0), said.out, said.err)

    return call


def uncounted() -> dict[str, str]:
    """The environment of a child that may not write where it likes: coverage would, and complain when it cannot."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    return {**kept, "PYTHONPATH": str(ROOT)}


def assert_one_clear_error(done: subprocess.CompletedProcess, *says: str) -> None:
    assert done.returncode not in (0, None)
    assert "Traceback" not in done.stderr + done.stdout
    message = done.stderr[done.stderr.index("error: ") :]
    assert len(message.splitlines()) <= 8, message
    for text in says:
        assert text in message


def committed(tmp_path: Path) -> list[str]:
    return sorted(path.parent.parent.name for path in (tmp_path / "root").glob("*/*/artifact.json"))


def test_a_missing_data_set(tmp_path: Path, sana_here: Callable[..., Done]) -> None:
    done = sana_here(f"download.datasets.0.source={tmp_path}/nowhere")
    assert_one_clear_error(done, "nowhere")
    assert committed(tmp_path) == []


def test_an_empty_folder(tmp_path: Path, sana_here: Callable[..., Done]) -> None:
    (tmp_path / "empty").mkdir()
    done = sana_here(f"download.datasets.0.source={tmp_path}/empty")
    assert_one_clear_error(done, "holds no video", "mp4")
    assert committed(tmp_path) == []


def test_a_config_with_three_mistakes(tmp_path: Path, sana_here: Callable[..., Done]) -> None:
    done = sana_here("train.lr=1", "train.max_steps=0", "bucket.buckets=[80x480x832]")
    assert_one_clear_error(done, "3 mistakes", "train.lr: unknown key", "train.max_steps", "80 frames is not 4k + 1")
    assert not (tmp_path / "root").exists() and not (tmp_path / "work").exists()


@pytest.mark.parametrize("model", ["no/such-model", "./missing", "not a path"])
def test_a_missing_model(tmp_path: Path, sana_here: Callable[..., Done], model: str) -> None:
    done = sana_here(model=model)
    assert_one_clear_error(done, model)
    assert committed(tmp_path) == []


def test_more_refusals_than_allowed(tmp_path: Path, tiny_model: Path, tracking_database: Path) -> None:
    """The stage is committed, so that its table can be read; the run stops there, now and the next time."""
    (tmp_path / "work").mkdir()
    shutil.copy(tracking_database, tmp_path / "work")
    few = "download.datasets.0.max_rejected_fraction=0.01"
    done = sana(tmp_path, tiny_model, few, command=SANA_COUNTED)
    rejected = "download.datasets[demo]: 1 of 16 clips were rejected (1 no_caption)"
    assert_one_clear_error(done, rejected, "rejects.parquet")
    assert committed(tmp_path) == ["download"]
    assert done.stdout.endswith("1 listings\n"), "from planning to the end of download a source is listed once"
    page = next((tmp_path / "work/mlflow-artifacts").rglob("data_report.html")).read_text()
    assert "nocaption-00.mp4" in page and '<span class="bad">failed</span>' in page, "the run says what to look at"

    places = [f"root={tmp_path}/root", f"work_dir={tmp_path}/work", f"model.path={tiny_model}"]
    context = Context(
        load_config(ROOT / "configs/demo.yaml", [*places, few]), open_store(places[0][5:]), tmp_path / "work"
    )
    with pytest.raises(SanaError, match=re.escape(rejected)), Run(context, plans=plan(context)) as run:
        run_all(run, ["download", "probe"])
    assert committed(tmp_path) == ["download"]


AS_NOBODY = """
import encodings.utf_8_sig, os, sys
import flows.display.show, sana.pipeline.plan, sana.data.sources.source, sana.model.model_resolver
from flows.cli.main import main
from sana.pipeline.graph import STAGES, stage
[stage(name) for name in STAGES]
sys.modules["flows.local_run"].LocalPrefect.start = lambda self: None  # Python itself may be out of reach
os.setgid(65534)  # from here on the interpreter's own files may be out of reach, so all of it is imported before
os.setuid(65534)
main(sys.argv[1:])
"""


def test_no_write_permission(tmp_path: Path, tiny_model: Path) -> None:
    """Tests may run as root, whom no permission stops: so the command gives up its rights first."""
    place = new_place(tmp_path, tiny_model)
    for folder in [*tmp_path.parents[:3], tmp_path]:
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    for file in model.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    (tmp_path / "work").chmod(0o777)
    (tmp_path / "root").mkdir(mode=0o755)
    sets = [f"root={tmp_path}/root", f"work_dir={tmp_path}/work", f"model.path={model}"]
    sets.append(f"download.datasets.0.source={place.clips}")
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, "run", "configs/demo.yaml", *(x for s in sets for x in ("-s", s))],
        capture_output=True, text=True, cwd=ROOT, env=uncounted(), timeout=200,
    )  # fmt: skip
    assert_one_clear_error(done, "no permission", str(tmp_path / "root"))
    assert list((tmp_path / "root").iterdir()) == []


@contextmanager
def no_file_beyond(num_bytes: int) -> Iterator[None]:
    """As on a disk that fills up, for this process and those that it starts."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk(tmp_path: Path, tiny_model: Path) -> None:
    """A part of four latents does not fit. The worker is a real one: what it met must reach the user."""
    place = new_place(tmp_path, tiny_model)
    with inline_workers():
        run_stages(place.context(), last="encode_captions")
    with no_file_beyond(20_000), pytest.raises(SanaError) as raised:
        run_stages(place.context(), last="encode_latents")
    message = str(raised.value)
    assert "shards" in message and "ulimit -f" in message and len(message.splitlines()) <= 8
    assert "encode_latents" not in committed(tmp_path)
    for path in Path(place.root).glob("*/*/artifact*.json"):
        Artifact.from_json(path.read_bytes(), where=str(path))
    assert not list(Path(place.root).rglob(".tmp-*"))
    with inline_workers():
        outcome = run_stages(place.context(), last="encode_latents")
    assert outcome["encode_latents"].counts.num_out == 13


def test_too_little_space_is_said_before_anything_is_encoded(tmp_path: Path, tiny_model: Path, monkeypatch) -> None:
    from sana.store import LocalStore

    place = new_place(tmp_path, tiny_model)
    context = place.context()
    with inline_workers():
        run_stages(context, last="bucket")
    monkeypatch.setattr(LocalStore, "free_bytes", lambda self: 1000)
    with pytest.raises(SanaError, match=r"13 samples need .* GiB .* are free; make room"):
        from sana.pipeline.graph import stage

        run_alone(stage("encode_latents"), context, run_stages(context, last="bucket").tables)
    assert not list((tmp_path / "work/jobs").glob("encode_latents-*"))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9", "no connection"),
        ("AWS_SECRET_ACCESS_KEY", "wrong", "the secret key is wrong"),
    ],
)
def test_s3_that_does_not_answer_or_rejects(
    s3, tmp_path: Path, tiny_model: Path, name: str, value: str, says: str
) -> None:
    done = sana(tmp_path, tiny_model, f"root=s3://{s3.bucket}/bad", env={**s3.env(), name: value})
    assert_one_clear_error(done, says)
    assert s3.secret_key not in done.stderr + done.stdout


def test_an_eval_source_that_is_not_there(tmp_path: Path, tiny_model: Path) -> None:
    """The words. How a stage that fails ends a flow is shown by the rejects above, and on a server by its own test."""
    place = new_place(tmp_path, tiny_model)
    with inline_workers(), pytest.raises(SanaError) as raised:
        run_stages(place.context("bucket.holdout=[buny]"))
    assert "bucket.holdout: 'buny' names no file, path or source that is not rejected; did you mean bunny?" in str(
        raised.value
    )
    assert len(str(raised.value).splitlines()) <= 8
    assert committed(tmp_path) == ["download", "probe"]


def test_a_damaged_store_is_named_not_trusted(tmp_path: Path, tiny_model: Path, sana_here: Callable[..., Done]) -> None:
    place = new_place(tmp_path, tiny_model)
    with inline_workers():
        run_stages(place.context(), last="probe")
    path = next(Path(place.root).glob("probe/*/artifact.json"))
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record)[:-20])
    done = sana_here(f"download.datasets.0.source={place.clips}")
    assert_one_clear_error(done, "is damaged", "probe")
    assert path.read_text() == json.dumps(record)[:-20], "nothing was made in its place"


def test_sources_are_only_read(tmp_path: Path, tiny_model: Path) -> None:
    """Also when its files are bad and its folder cannot be written."""
    place = new_place(tmp_path, tiny_model)
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in place.clips.iterdir()}
    place.clips.chmod(0o555)
    run_stages(place.context(), last="probe")
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in place.clips.iterdir()} == before
    assert len(before) == len(list(CLIPS.iterdir()))
    shutil.rmtree(place.clips)


@pytest.mark.parametrize("kind", ["a file", "below a file"])
def test_a_bad_work_dir_is_blamed_on_itself(
    tmp_path: Path, tiny_model: Path, sana_here: Callable[..., Done], kind: str
) -> None:
    (tmp_path / "work").write_text("not a folder")
    bad = tmp_path / "work" / ("" if kind == "a file" else "deeper")
    done = sana_here(f"work_dir={bad}")
    assert_one_clear_error(done, f"cannot write to work_dir {tmp_path}/work", "choose another work_dir")
    assert "model" not in done.stderr.replace(str(tiny_model), "")
    assert committed(tmp_path) == []
