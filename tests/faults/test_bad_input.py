"""Bad input, bad places: one clear message, exit code not 0, and nothing half-committed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sana.artifact import Artifact
from tests.pipeline_runs import CLIPS, ROOT, inline_workers, new_place, run_stages

pytestmark = pytest.mark.timeout(240)

SANA = [sys.executable, "-m", "flows.cli.main"]


def sana(tmp_path: Path, model: Path | str, *arguments: str, config: str = "configs/demo.yaml", **kwargs):
    """Run `sana run` on the demo's config, with places of its own."""
    places = [f"root={tmp_path}/root", f"work_dir={tmp_path}/work", f"model.path={model}"]
    sets = [part for pair in [*places, *arguments] for part in ("-s", pair)]
    home = str(tmp_path.parent / "prefect")  # making its database takes twenty seconds: one for all tests here
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "PREFECT_HOME": home, **kwargs.pop("env", {})}
    return subprocess.run(
        [*SANA, "run", config, *sets], capture_output=True, text=True, cwd=ROOT, env=env, timeout=200, **kwargs
    )


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


def test_a_missing_data_set(tmp_path: Path, tiny_model: Path) -> None:
    done = sana(tmp_path, tiny_model, f"download.datasets.0.source={tmp_path}/nowhere")
    assert_one_clear_error(done, "nowhere")
    assert committed(tmp_path) == []


def test_an_empty_folder(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = sana(tmp_path, tiny_model, f"download.datasets.0.source={tmp_path}/empty")
    assert_one_clear_error(done, "holds no video", "mp4")
    assert committed(tmp_path) == []


def test_a_config_with_three_mistakes(tmp_path: Path, tiny_model: Path) -> None:
    done = sana(tmp_path, tiny_model, "train.lr=1", "train.max_steps=0", "bucket.buckets=[80x480x832]")
    assert_one_clear_error(done, "3 mistakes", "train.lr: unknown key", "train.max_steps", "80 frames is not 4k + 1")
    assert not (tmp_path / "root").exists() and not (tmp_path / "work").exists()


@pytest.mark.parametrize("model", ["no/such-model", "./missing", "not a path"])
def test_a_missing_model(tmp_path: Path, model: str) -> None:
    done = sana(tmp_path, model)
    assert_one_clear_error(done, model)
    assert committed(tmp_path) == []


def test_more_refusals_than_allowed(tmp_path: Path, tiny_model: Path) -> None:
    """The stage is committed, so that its table can be read; the run stops there, now and the next time."""
    for _ in range(2):
        done = sana(tmp_path, tiny_model, "download.datasets.0.max_rejected_fraction=0.01")
        rejected = "download.datasets[demo]: 1 of 16 clips were rejected (1 no_caption)"
        assert_one_clear_error(done, rejected, "rejects.parquet")
        assert committed(tmp_path) == ["download"]
    page = next((tmp_path / "work/mlflow-artifacts").rglob("data_report.html")).read_text()
    assert "nocaption-00.mp4" in page and '<span class="bad">failed</span>' in page, "the run says what to look at"


AS_NOBODY = """
import os, sys
import flows.cli.show, sana.pipeline.plan, sana.data.sources.source, sana.model.model_resolver
from flows.cli.main import main
from sana.pipeline.graph import STAGES, stage
[stage(name) for name in STAGES]
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


FULL = """
import resource, sys
from pathlib import Path
from sana.errors import SanaError
from tests.pipeline_runs import Place, run_stages
folder, model = sys.argv[1:3]
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
try:
    run_stages(Place(Path(folder), Path(model), folder + "/root").context(), last="encode_latents")
except SanaError as error:
    sys.exit(f"error: {error}")
"""


def test_a_full_disk(tmp_path: Path, tiny_model: Path) -> None:
    """No file may grow beyond 40 kB, as on a disk that fills up: a part of four latents is larger."""
    place = new_place(tmp_path, tiny_model)
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(place.folder), str(tiny_model)],
        capture_output=True, text=True, cwd=ROOT, env=uncounted(), timeout=200,
    )  # fmt: skip
    assert_one_clear_error(done, "shards", "ulimit -f")
    assert "encode_latents" not in committed(tmp_path)
    for path in Path(place.root).glob("*/*/artifact*.json"):
        Artifact.from_json(path.read_bytes(), where=str(path))
    assert not list(Path(place.root).rglob(".tmp-*"))
    with inline_workers():
        outcome = run_stages(place.context(), last="encode_latents")
    assert outcome["encode_latents"].counts.num_out == 13


def test_too_little_space_is_said_before_anything_is_encoded(tmp_path: Path, tiny_model: Path, monkeypatch) -> None:
    from sana.errors import SanaError
    from sana.store import LocalStore

    place = new_place(tmp_path, tiny_model)
    context = place.context()
    with inline_workers():
        run_stages(context, last="bucket")
    monkeypatch.setattr(LocalStore, "free_bytes", lambda self: 1000)
    with pytest.raises(SanaError, match=r"13 samples need .* GiB .* are free; make room"):
        from sana.pipeline.graph import stage

        stage("encode_latents").run(context, run_stages(context, last="bucket").tables)
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
    done = sana(tmp_path, tiny_model, "bucket.holdout_sources=[buny]")
    assert_one_clear_error(done, "source 'buny': no clip has it; did you mean bunny?")
    assert committed(tmp_path) == ["download", "probe"]


def test_a_damaged_store_is_named_not_trusted(tmp_path: Path, tiny_model: Path) -> None:
    place = new_place(tmp_path, tiny_model)
    run_stages(place.context(), last="probe")
    path = next(Path(place.root).glob("probe/*/artifact.json"))
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record)[:-20])
    done = sana(tmp_path, tiny_model, f"download.datasets.0.source={place.clips}")
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
def test_a_bad_work_dir_is_blamed_on_itself(tmp_path: Path, tiny_model: Path, kind: str) -> None:
    (tmp_path / "work").write_text("not a folder")
    bad = tmp_path / "work" / ("" if kind == "a file" else "deeper")
    done = sana(tmp_path, tiny_model, f"work_dir={bad}")
    assert_one_clear_error(done, f"cannot write to work_dir {tmp_path}/work", "choose another work_dir")
    assert "model" not in done.stderr.replace(str(tiny_model), "")
    assert committed(tmp_path) == []
