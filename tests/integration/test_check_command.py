"""`sana check`: what it says is what the stages then do, by name and with a remedy that helps; root is not written."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from flows.cli.main import cli, main
from sana.config.load import load_config
from sana.data.tables import read_table
from sana.facts import BucketFacts
from sana.pipeline.check import check_data
from sana.progress import noop
from sana.store import open_store
from tests.pipeline_runs import ROOT, Place, as_shipped, inline_workers, new_place, run_stages
from tests.video_files import make_video

pytestmark = pytest.mark.timeout(120)


def fake_model(folder: Path) -> Path:
    """A folder that is laid out like a model: check looks at names and digests, and loads nothing."""
    for name in ("transformer", "vae", "text_encoder", "tokenizer", "scheduler"):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text("{}")
    (folder / "model_index.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The demo's clips, and a work_dir in which they were probed once; nothing at root."""
    folder = tmp_path_factory.mktemp("check")
    made = new_place(folder, fake_model(folder / "model"))
    with inline_workers():
        assert check(made).exit_code == 0
    return made


@pytest.fixture(autouse=True)
def _inline() -> Iterator[None]:
    with inline_workers():
        yield


def arguments(place: Place, *overrides: str) -> list[str]:
    places = [f"root={place.root}", f"work_dir={place.folder}/work", f"download.datasets.0.source={place.clips}"]
    places.append(f"model.path={place.model}")
    return ["check", str(ROOT / "configs/demo.yaml"), *(x for text in (*places, *overrides) for x in ("-s", text))]


def check(place: Place, *overrides: str) -> Result:
    return CliRunner().invoke(cli, arguments(place, *overrides))


def stopped(shown: Result) -> list[str]:
    """What would stop a run, by the last lines."""
    assert shown.exit_code == 1, shown.output
    lines = shown.output.splitlines()
    [start] = [number for number, line in enumerate(lines) if line.endswith("would stop a run:")]
    found = [line.removeprefix("  ") for line in lines[start + 1 :]]
    assert lines[start].startswith(f"{len(found)} thing")
    return found


def test_it_shows_what_the_stage_then_does(place: Place) -> None:
    overrides = ("bucket.window=uniform", "bucket.windows_per_clip=2", "bucket.target_fps=12", "sample.fps=12")
    shown = check(place, *overrides, "download.datasets.demo.max_rejected_fraction=1")
    assert shown.exit_code == 0, shown.output
    assert not Path(place.root).exists()
    rows_shown = [line.split() for line in shown.stdout.splitlines() if re.match(r"\d+x\d+x\d+ +\d", line)]
    lines = {name: values for name, *values in rows_shown}
    context = place.context(*as_shipped(), *overrides)
    made = run_stages(context, last="bucket")["bucket"]
    rows = read_table(context.store, made, "clips.parquet").to_pylist()
    facts = BucketFacts.of(made)
    assert {row["window_fps"] for row in rows} == {12.0} and set(facts.buckets) == {row["bucket"] for row in rows}
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
    num_eval = sum(row["split"] == "eval" for row in rows)
    assert f"split: train {len(rows) - num_eval} samples of" in shown.output
    assert f"16 clips in {place.clips}, {made.counts.num_out} used, {16 - made.counts.num_out} rejected" in shown.output
    assert shown.output.splitlines()[-1].startswith("a run would go through: sana run ")


TWO = "[{{id: a, source: {clips}}}, {{id: b, source: {clips}, bucket: {{buckets: [9x64x64], hdr: reject}}}}]"
ROLES = "[{{id: a, source: {clips}, source_pattern: '^([a-z]+)-'}}, {{id: b, source: {other}, role: eval}}]"


@pytest.mark.parametrize(
    ("datasets", "overrides"),
    [
        (TWO, []),
        (ROLES, ["bucket.holdout=[]"]),
        (TWO, ["filter_captions.min_words=15", "bucket.window=random", "bucket.windows_per_clip=2"]),
        (TWO, ["probe.duplicates=keep", "bucket.small_buckets=merge", "bucket.min_bucket_samples=4"]),
    ],
)
def test_its_samples_and_rejects_are_those_of_the_stages(
    place: Place, tmp_path: Path, datasets: str, overrides: list[str]
) -> None:
    (tmp_path / "other").mkdir()
    make_video(tmp_path / "other" / "x.mp4", num_frames=30, width=160, height=96)
    (tmp_path / "other" / "x.txt").write_text("a test picture")
    made = datasets.format(clips=place.clips, other=tmp_path / "other")
    split = () if datasets == ROLES else ("bucket.holdout=[]", "bucket.eval_fraction=0.3")
    context = place.context(f"root={tmp_path}/root", f"download.datasets={made}", *split, *overrides)
    checked = check_data(context, lambda name: noop)
    assert not (tmp_path / "root").exists() and checked.assigned is not None
    stages = run_stages(context, last="bucket")
    windows = read_table(context.store, stages["bucket"], "clips.parquet")
    assert windows.num_rows and checked.assigned.windows.sort_by("sample_id").equals(windows.sort_by("sample_id"))
    rejects = [read_table(context.store, artifact, "rejects.parquet") for artifact in stages.artifacts.values()]
    in_order = [("clip_id", "ascending"), ("stage", "ascending")]
    assert checked.rejects.sort_by(in_order).equals(pa.concat_tables(rejects).sort_by(in_order))


def test_every_reject_is_named_with_what_would_help(place: Place) -> None:
    lines = check(place).stdout.splitlines()
    where = "download.datasets.demo"
    assert lines[1:7] == [
        "  no_caption 1: nocaption-00.mp4 (there is no nocaption-00.txt)",
        f"    write their captions, set {where}.captions.missing: fallback, or another captions.layout",
        "  too_short 1: short-00.mp4 (3 frames)",
        "    the shortest bucket needs 9 frames, the longest of these has 3: lower it, -s 'bucket.buckets="
        "[9x96x160,9x128x128,9x160x96,17x96x160,17x128x128,17x160x96,1x96x160,1x128x128,1x160x96]' takes all",
        lines[5],
        "    replace or remove these files",
    ]
    assert lines[5].startswith("  truncated 1: corrupt-00.mp4 (the file ends early, at byte ")
    assert "  captions: one each of 15 clips" in lines
    assert "  videos: 192x192 to 288x162 pixels, 3 to 36 frames, 25 frames/s" in lines


RULES = [  # bucket rules that reject many of the demo's clips, which are 192x192 to 288x162 and have 14 or 36 frames
    "bucket={eval_fraction: 0.5, num_frames: 81}",
    "bucket={eval_fraction: 0.5, num_frames: 17}",
    "bucket={eval_fraction: 0.5, buckets: [81x96x160, 81x128x128, 81x160x96]}",
    "bucket={eval_fraction: 0.5, buckets: [17x96x160], max_aspect_ratio: 1.2}",
    "bucket={eval_fraction: 0.5, buckets: [17x96x160], min_frames: 30}",
    "bucket={eval_fraction: 0.5, buckets: [17x96x160], max_frames: 20, too_long: reject}",
    "bucket={eval_fraction: 0.5, buckets: [17x96x160], minimum_image_size: 1000}",
    "bucket={eval_fraction: 0.5, buckets: [17x480x832]}",
    "bucket={eval_fraction: 0.5, table: resolution, resolution: 480, num_frames: 17}",
    "bucket={eval_fraction: 0.5, buckets: [17x96x160], target_fps: 5}",
    "download.datasets.demo.bucket={num_frames: 81}",
]


@pytest.mark.parametrize("rules", RULES)
def test_a_remedy_takes_as_many_clips_as_it_says(place: Place, rules: str) -> None:
    """Each change that is proposed, made: so many more clips are used."""
    shown = check(place, rules)
    before, rejected, tried = used(shown), 0, 0
    for line in shown.stdout.splitlines():
        if found := re.match(r"  \w+ (\d+): ", line):
            rejected = int(found[1])
        for options, says in re.findall(r"((?:-s (?:'[^']+'|\S+) )+)takes (all|\d+ of \d+)", line):
            gained = used(check(place, rules, *shlex.split(options)[1::2])) - before
            # at least: clips that were rejected for another reason may be taken as well
            assert gained >= (rejected if says == "all" else int(says.split()[0])) > 0, (options, shown.stdout)
            tried += 1
    assert tried, shown.stdout


@pytest.mark.parametrize(("rule", "reason"), [("min_words=21", "short"), ("max_words=15", "long")])
def test_a_remedy_for_captions_lets_all_of_them_pass(place: Place, rule: str, reason: str) -> None:
    shown = check(place, f"filter_captions.{rule}")
    found = re.search(rf"caption_too_{reason} \d+: .*\n    .* -s (\S+) lets all of them pass\n", shown.stdout)
    assert found, shown.stdout
    assert "caption_too" not in check(place, f"filter_captions.{rule}", found[1]).stdout


def used(shown: Result) -> int:
    found = re.search(r", (\d+) used, ", shown.output)
    assert found, shown.output
    return int(found[1])


def test_names_stop_at_five(place: Place) -> None:
    assert re.search(
        r"  too_short 14: bunny-00.mp4 \(36 frames\), bunny-01.mp4 .*, bunny-04.mp4 \(14 frames\) and 9 more$",
        check(place, "bucket={num_frames: 81}").output,
        re.MULTILINE,
    )


def test_small_buckets_are_told(place: Place) -> None:
    merged = check(place, "bucket.small_buckets=merge", "bucket.min_bucket_samples=2").output
    assert "9x96x160 has 1 train sample, fewer than 2: 1 of its clips stay, no other bucket takes them" in merged
    oversampled = check(place, "bucket.small_buckets=oversample", "bucket.min_bucket_samples=3").output
    assert "9x96x160 has 1 train sample, fewer than 3: they are drawn 3 times in an epoch" in oversampled
    assert "17x96x160 has 2 train samples for a batch of 4: it is filled up by repeats" in check(place).output


def test_all_that_would_stop_a_run_is_said_at_once(place: Place, tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("file_name,caption\nx.mp4,'\n")
    make_video(tmp_path / "x.mp4", num_frames=2)
    (tmp_path / "file").touch()
    shown = check(
        place,
        f"download.datasets=[{{id: demo, source: {place.clips}}}, {{id: gone, source: {tmp_path}/gone}},"
        f"{{id: table, source: {tmp_path}, captions: {{text_columns: [txt]}}}}]",
        "bucket.holdout=[buny]",
        "model.path=/no/model",
        f"root={tmp_path}/file",
        "train.lr_schedule.warmup_steps=500",
    )
    problems = stopped(shown)
    assert [re.sub(r"^(.*?\]?: .*?)[: ,].*", r"\1", problem) for problem in problems]
    for number, words in enumerate(
        [
            f"root: root {tmp_path}/file is a file",
            "model.path /no/model is neither",
            "download.datasets[gone]: ",
            "download.datasets[table]: ",
            "download.datasets[demo]: more clips are rejected than max_rejected_fraction 0.05 allows (1 of 16 in "
            "download, 1 of 15 in probe, 1 of 14 in bucket): mend them, or "
            "-s download.datasets.demo.max_rejected_fraction=0.08",
            "bucket.holdout: 'buny' names no file",
        ]
    ):
        assert problems[number].startswith(words), problems
    assert "17x96x160" in shown.output  # the data set that can be read is shown all the same
    assert "warning: train.lr_schedule.warmup_steps 500 is not below" in shown.output


def test_nothing_left_is_said_once(place: Place, tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4", num_frames=2)
    sources = f"download.datasets=[{{id: bare, source: {tmp_path}}}]"
    assert stopped(check(place, sources)) == ["download: all 1 clips are rejected; above is what would help"]


def test_a_video_that_is_known_is_not_opened_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier check found is kept in work_dir; what a run found is read from root."""
    run_stages(place.context(), last="probe")
    for probes in (place.folder / "work" / "cache").glob("probes-*.parquet"):
        probes.unlink()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a worker was started")

    monkeypatch.setattr("sana.runtime.worker.launch", never)
    assert check(place).exit_code == 0
    with inline_workers():
        assert check(place, f"root={place.folder}/other").exit_code == 0  # probes again, and keeps it
    monkeypatch.setattr("sana.runtime.worker.launch", never)
    assert check(place, f"root={place.folder}/other").exit_code == 0
    assert not (place.folder / "other").exists()
    found = run_stages(place.context(f"root={place.folder}/third"), last="probe")["probe"]  # nor does the run after it
    assert found.counts.num_out == 14 and found.counts.extra["opened"] == 0


def test_it_writes_nothing_to_root_and_imports_nothing_heavy(place: Place) -> None:
    """With the worker in a process of its own."""
    run_stages(place.context(), last="probe")
    fresh = Place(place.folder / "fresh", place.model, place.root)
    new_place(fresh.folder, place.model)
    before = {p: p.stat().st_mtime_ns for p in Path(place.root).rglob("*")}
    arguments_ = [*arguments(fresh), "-s", f"root={fresh.folder}/none"]
    script = f"import sys; from flows.cli.main import main; main({arguments_!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "sana.data.bucketing.window_table" in loaded and "13 used" in done.stdout
    assert not loaded & {"torch", "prefect", "mlflow", "av", "decord", "diffusers"}
    assert not (fresh.folder / "none").exists()
    assert {p: p.stat().st_mtime_ns for p in Path(place.root).rglob("*")} == before
    assert not list((fresh.folder / "work").glob("worker-*"))


def test_a_source_alone_gives_a_config_that_goes_through(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "My Clips"
    source.symlink_to(place.clips)
    shown = CliRunner().invoke(cli, ["check", str(source), "--write", "my.yaml", "-s", f"model.path={place.model}"])
    assert shown.exit_code == 0, shown.output
    assert "  too_short 14: bunny-00.mp4 (36 frames)" in shown.output  # by the defaults
    assert "with my.yaml 10 of 16 clips are used (rejected: 4 too_short, 1 no_caption, 1 truncated)" in shown.output
    assert shown.output.endswith("a run would go through: sana run my.yaml\n") and "warning" not in shown.output
    assert "18 GB" not in Path("my.yaml").read_text(), "the model is here"
    config = load_config("my.yaml")
    [dataset] = config.download.datasets
    assert (dataset.id, dataset.source, config.bucket.num_frames) == ("my-clips", str(source), 33)
    again = CliRunner().invoke(cli, ["check", "my.yaml"])
    assert again.exit_code == 0, again.output
    assert used(again) == 10 and "warning" not in again.output
    other = CliRunner().invoke(cli, ["check", str(source), "--write", "my.yaml"])
    assert "there is such a file already" in str(other.exception)
    Path("my.yaml").rename("mine.yaml")
    printed = CliRunner().invoke(cli, ["check", str(source), "-s", f"model.path={place.model}"]).output
    assert Path("mine.yaml").read_text() in printed
    _, command = printed.splitlines()[-1].split("a run would go through: sana ")
    check_again, run = command.split(" && ")
    assert run == "sana run my.yaml" and CliRunner().invoke(cli, shlex.split(check_again)).exit_code == 0
    assert Path("my.yaml").read_text() == Path("mine.yaml").read_text(), "the printed commands can be pasted"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("/data/My Clips (2)/", "my-clips-2"), ("s3://bucket/a_b", "a_b"), ("hf://datasets/o/Some.Set", "some.set"),
     ("...", "clips"), ("é", "clips"), ("x" * 99, "x" * 64), ("a/Clips.csv", "clips"),
     ("x.tar.gz", "x"), ("x.TAR", "x"), (".zip", "clips")],
)  # fmt: skip
def test_a_source_names_its_data_set(name: str, expected: str) -> None:
    from sana.pipeline.starting.starter import dataset_id

    assert dataset_id(name) == expected


def test_a_source_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [problem] = stopped(CliRunner().invoke(cli, ["check", "gone"]))
    assert problem.startswith(f"download.datasets[gone]: source {tmp_path}/gone is not there")
    shown = CliRunner().invoke(cli, ["check", "gone", "--write", "my.yaml"])
    assert shown.exit_code == 1 and not Path("my.yaml").exists()  # no config would help


def test_the_template_needs_a_source_and_what_check_names(place: Place) -> None:
    """The overrides that a check of the template proposes make a run of the demo's clips go through."""
    template = ["check", str(ROOT / "configs/sana_video_480p.yaml"), *arguments(place)[2:]]
    shown = CliRunner().invoke(cli, template)
    assert stopped(shown)[0] == "bucket: all 14 clips are rejected; above is what would help"
    bucket = re.search(r"too_short 14: .*\n.*?((?:-s \S+ )+)takes 10 of 14", shown.stdout)
    assert bucket, shown.stdout
    template += shlex.split(bucket[1])
    [problem] = stopped(CliRunner().invoke(cli, template))
    assert CliRunner().invoke(cli, [*template, *problem.split()[-2:]]).exit_code == 0


def test_several_captions_are_counted_and_near_names_told(place: Place, tmp_path: Path) -> None:
    for number, text in enumerate(["one", "one\ntwo\nthree", "one\ntwo"]):
        make_video(tmp_path / f"{number}.mp4", num_frames=20 + number, width=160, height=96)
        (tmp_path / f"{number}.txt").write_text(text)
    (tmp_path / "a-1.mp4").touch()
    (tmp_path / "a_1.txt").write_text("a name that is near")
    shown = check(place, f"download.datasets=[{{id: own, source: {tmp_path}}}]", "bucket={buckets: [17x96x160]}").output
    assert '  no_caption 1: a-1.mp4 (there is no a-1.txt; "a_1.txt" is near)\n' in shown
    assert "  captions: 2 of 3 clips have 2 to 3 alternatives, of which each step draws one" in shown


def test_sana_buckets_says_where_it_went(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["buckets", "my.yaml", "-s", "x=y"])
    assert "sana check CONFIG" in capsys.readouterr().err
    assert "\n  buckets " not in CliRunner().invoke(cli, ["--help"]).output


def test_a_source_and_a_root_in_s3_are_read_and_not_written(place: Place, s3_root: str) -> None:
    clips, root = open_store(f"{s3_root}/clips"), open_store(f"{s3_root}/root")
    for path in sorted(place.clips.iterdir()):
        clips.put_if_absent(path.name, path.read_bytes())
    before = [entry.key for entry in clips.list_entries("")]
    shown = check(place, f"download.datasets.0.source={s3_root}/clips", f"root={s3_root}/root")
    assert shown.exit_code == 0 and used(shown) == 13, shown.output
    assert [entry.key for entry in clips.list_entries("")] == before and not root.list("")
