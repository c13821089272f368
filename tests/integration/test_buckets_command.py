"""`sana buckets`: the preview is what the stage then does; it writes nothing and needs nothing heavy."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flows.cli.main import cli, main
from flows.cli.show import result_table
from sana.data.tables import read_table
from sana.facts import BucketFacts
from tests.pipeline_runs import ROOT, Place, inline_workers, new_place, run_stages, shipped_buckets

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The demo's clips, probed. There is no model: nothing here asks for one."""
    made = new_place(tmp_path_factory.mktemp("buckets"), Path("no/model"))
    with inline_workers():
        run_stages(made.context(), last="probe")
    return made


def arguments(place: Place, *overrides: str) -> list[str]:
    places = [f"root={place.root}", f"work_dir={place.folder}/work", f"download.datasets.0.source={place.clips}"]
    return ["buckets", str(ROOT / "configs/demo.yaml"), *(x for text in (*places, *overrides) for x in ("-s", text))]


def preview(place: Place, *overrides: str) -> Result:
    return CliRunner().invoke(cli, arguments(place, *overrides))


def test_it_shows_what_the_stage_then_does(place: Place) -> None:
    overrides = ("bucket.window=uniform", "bucket.windows_per_clip=2", "bucket.target_fps=12")
    shown = preview(place, *overrides)
    assert shown.exit_code == 0, shown.output
    lines = {line.split()[0]: line.split()[1:] for line in shown.output.splitlines() if line.strip()}
    context = place.context(shipped_buckets(), *overrides)
    made = run_stages(context, last="bucket")["bucket"]
    rows = read_table(context.store, made, "clips.parquet").to_pylist()
    assert {row["window_fps"] for row in rows} == {12.0}
    facts = BucketFacts.of(made)
    for name in facts.buckets:
        train, held_out, clips, cropped, upscaled, tokens, mebibytes = lines[name]
        mine = [row for row in rows if row["bucket"] == name]
        assert (int(train), int(held_out)) == tuple(
            sum(row["split"] == split for row in mine) for split in ("train", "eval")
        )
        assert int(clips) == len({row["clip_id"] for row in mine})
        used = [row["crop_width"] * row["crop_height"] / (row["width"] * row["height"]) for row in mine]
        assert cropped == f"{1 - sum(used) / len(used):.1%}" and upscaled == "0.0%"
        frames, height, width = map(int, name.split("x"))
        latent = (1 + (frames - 1) // 4) * (height // 8) * (width // 8)
        assert int(tokens) == latent // 4
        assert mebibytes == f"{len(mine) * latent * 16 * 2 / 2**20:.1f}"
    assert set(facts.buckets) == {row["bucket"] for row in rows}
    counts = made.counts
    clips = {row["clip_id"] for row in rows}
    assert counts.num_samples == len(rows) > counts.num_out == len(clips) == counts.num_in - counts.num_rejected
    rejected = counts.num_rejected
    said = (
        f"{counts.num_in} in, {counts.num_out} used for {len(rows)} samples, {rejected} rejected ({rejected} too_short)"
    )
    assert said in shown.output
    table = result_table([("bucket", "Completed", made)], context.store)
    assert table.splitlines()[1].split()[2:6] == [
        str(num) for num in (counts.num_in, counts.num_out, counts.num_rejected, counts.num_samples)
    ]


def test_it_writes_nothing_and_imports_nothing_heavy(place: Place) -> None:
    before = {p: p.stat().st_mtime_ns for p in place.folder.rglob("*")}
    script = f"import sys; from flows.cli.main import main; main({arguments(place)!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "sana.data.bucketing.window_table" in loaded
    assert not loaded & {"torch", "prefect", "mlflow", "av", "decord", "diffusers"}
    assert {p: p.stat().st_mtime_ns for p in place.folder.rglob("*")} == before


def test_small_buckets_are_told(place: Place) -> None:
    merged = preview(place, "bucket.small_buckets=merge", "bucket.min_bucket_samples=2").output
    assert "9x96x160 has 1 train samples, fewer than 2: 1 of its clips stay, no other bucket takes them" in merged
    oversampled = preview(place, "bucket.small_buckets=oversample", "bucket.min_bucket_samples=3").output
    assert "9x96x160 has 1 train samples, fewer than 3: they are drawn 3 times in an epoch" in oversampled
    assert "17x96x160 has 2 train samples for a batch of 4: it is filled up by repeats" in preview(place).output


def test_what_would_stop_the_run_is_said_after_the_table(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments(place, "bucket.holdout=[buny]"))
    said = capsys.readouterr()
    assert ended.value.code == 1 and "17x96x160" in said.out
    assert said.err.startswith("error: bucket.holdout: 'buny' names no file, path or source; did you mean bunny?")


def test_without_a_probe_it_says_which_command_makes_it(place: Place, tmp_path: Path) -> None:
    shown = preview(place, f"root={tmp_path}/other")
    assert shown.exit_code == 1
    assert str(shown.exception).endswith(f"-s root={tmp_path}/other --until probe")
    assert "sana run" in str(shown.exception) and not (tmp_path / "other").exists()
