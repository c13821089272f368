"""`--rehash`: a file that changed and kept its size and time is found, and its content flows through."""

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from flows.cli.main import main
from sana.config.load import load_config
from sana.context import Context
from sana.data.tables import read_table
from sana.pipeline.plan import CACHED, PENDING, STALE, plan
from sana.pipeline.rehash import rehash
from sana.pipeline.run import Run, run_stages
from tests.downloads import DEMO, context
from tests.source_files import make_files, opened

pytestmark = pytest.mark.timeout(60)


def tar_of(data: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tarred:
        for name, content in (("t.mp4", data), ("t.txt", b"in a tar")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tarred.addfile(member, io.BytesIO(content))
    return out.getvalue()


FILES: dict[str, bytes | str] = {
    "a.mp4": b"video a", "a.txt": "a cat", "b.mp4": b"video b", "b.txt": "a dog",
}  # fmt: skip
PACKED = {"c.tar": tar_of(b"video t")}
# the file that changes -> (its new content, what the plan says)
CHANGES: dict[str, tuple[bytes | str, str]] = {
    "a.mp4": (b"VIDEO A", "changed, and kept size and time: a.mp4"),
    "b.txt": ("a fox", "captions were changed, and their files kept size and time"),
    "c.tar": (tar_of(b"VIDEO T"), "changed, and kept size and time: "),
}


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> Path:
    return tiny_model


def context_at(tmp_path: Path, model: Path) -> Context:
    at = context(tmp_path, {"source": str(tmp_path / "s")})
    config = at.config.model_copy(update={"model": at.config.model.model_copy(update={"path": str(model)})})
    return Context(config, at.store, at.work_dir)


def download(at: Context, force: tuple[str, ...] = ()) -> dict[str, str]:
    """Run the download stage; returns {path: digest} of its clips, with their captions."""
    with Run(at, force=force) as run:
        (done,) = run_stages(run, ["download"])
    clips, captions = (read_table(at.store, done.artifact, f"{name}.parquet") for name in ("clips", "captions"))
    rows = zip(clips.to_pylist(), captions.to_pylist(), strict=True)
    return {clip["path"]: f"{clip['digest']} {row['captions']}" for clip, row in rows}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_without_a_sign_is_found_and_taken(tmp_path: Path, tiny: Path, name: str) -> None:
    data, says = CHANGES[name]
    folder = make_files(tmp_path / "s", PACKED if name in PACKED else FILES)
    at = context_at(tmp_path, tiny)
    first = download(at)
    make_files(folder, {name: data})  # the same size and, as all are of one time, the same time
    assert [one.state for one in plan(at, last="download")] == [CACHED], "nothing shows that it changed"

    reading = Context(at.config, at.store, at.work_dir, read_only=True)
    for once in (reading, at):
        planned, below = plan(once, last="probe", rehashed=rehash(once))
        assert (planned.state, planned.must_force, below.state) == (STALE, True, PENDING)
        assert says in planned.detail and planned.detail.endswith("to do")
    second = download(at, force=("download",))
    assert second != first and set(second) == set(first)
    assert len({path for path in first if first[path] != second[path]}) == 1

    again, below = plan(at, last="probe", rehashed=rehash(at))
    assert (again.state, again.must_force) == (CACHED, False)
    assert download(at) == second, "and so without --rehash from now on"
    source = opened(folder, at.work_dir)
    for path, found in second.items():
        with source.open_video(path, digest=found.partition(" ")[0]) as local:
            now = b"VIDEO T" if name in PACKED else (folder / path).read_bytes()
            assert local.read_bytes() == now, "the caches have what is there now"


def test_where_nothing_changed_nothing_is_done(tmp_path: Path, tiny: Path) -> None:
    make_files(tmp_path / "s", FILES)
    at = context_at(tmp_path, tiny)
    assert [one.state for one in plan(at, last="download", rehashed=rehash(at))] == ["missing"]
    download(at)
    found = rehash(at)
    assert [one.state for one in plan(at, last="download", rehashed=found)] == [CACHED] and not found.is_model_changed


def test_a_changed_file_of_the_model_is_found(tmp_path: Path) -> None:
    make_files(tmp_path / "s", FILES)
    parts = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
    model = make_files(tmp_path / "m", {"model_index.json": "{}", **{f"{part}/config.json": "{} " for part in parts}})
    at = context_at(tmp_path, model)
    rehash(at)
    make_files(model, {"vae/config.json": "{}\n"})
    reading = Context(at.config, at.store, at.work_dir, read_only=True)
    assert [rehash(one).is_model_changed for one in (reading, reading, at, at)] == [True, True, True, False]


def test_the_commands_take_it(tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_files(tmp_path / "s", FILES)
    sets = json.dumps([{"id": "d0", "source": str(folder), "max_rejected_fraction": 1.0}])
    values = [f"download.datasets={sets}", f"root={tmp_path}/root", f"work_dir={tmp_path}/work", f"model.path={tiny}"]
    config = load_config(DEMO, values)
    options = [x for value in [*values, "download.resources.num_workers=4"] for x in ("-s", value)]
    at = context_at(tmp_path, tiny)
    assert at.config.download.hashed() == config.download.hashed()
    download(at)
    make_files(folder, {"a.mp4": b"VIDEO A"})
    main(["plan", str(DEMO), *options, "--until", "download"])
    assert "nothing to do" in capsys.readouterr().out
    main(["plan", str(DEMO), *options, "--until", "download", "--rehash"])
    said = capsys.readouterr()
    assert "--rehash: reading all local files again" in said.err
    assert "kept size and time: a.mp4" in " ".join(said.out.split()) and said.out.rstrip().endswith("--rehash")
    assert os.stat(folder / "a.mp4").st_mtime == 1_700_000_000
