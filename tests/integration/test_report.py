"""The data report of real runs: whole, partial, on S3, of files whose names are hostile; and its place in MLflow."""

import base64
import dataclasses
import hashlib
import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from PIL import Image

from flows.cli.main import main
from sana.artifact import Draft, Recipe
from sana.context import Context
from sana.data.manifest import clip_id_of, count_rejects, read_table, table_of, to_parquet
from sana.data.schemas import CAPTION_INDEX, LATENT_INDEX, REJECTS
from sana.report.page import data_report
from sana.report.states import StageState
from sana.store import open_store
from tasks.report import PAGE, StageBook, record_report
from tasks.tracking import Tracker, tracking_uri
from tests.pipeline_runs import Outcome, Place, new_place, run_stages
from tests.s3_server import WeedServer

pytestmark = pytest.mark.timeout(120)

HOSTILE = "bunny-<script>alert(1)<script>\n\u202e\"'&.mp4"
CAPTION = '</script><img src=http://evil.example/x onerror="alert(2)">\na second <b>caption</b>'


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, Outcome]:
    """The demo's clips up to their buckets, one more whose name and captions are hostile, and one that is refused."""
    folder = tmp_path_factory.mktemp("report")
    place = new_place(folder, folder / "none")
    shutil.copy(place.clips / "bunny-00.mp4", place.clips / HOSTILE)
    (place.clips / HOSTILE).with_suffix(".txt").write_text("a rabbit")
    for text in place.clips.glob("*.txt"):
        text.write_text(f"{text.read_text()}\n{CAPTION}")
    (place.clips / HOSTILE.replace("bunny", "nobody")).write_bytes(b"")
    return place, run_stages(place.context("probe.duplicates=keep"), last="bucket")


def states_of(outcome: Outcome, *names: str) -> list[StageState]:
    every = ("download", "probe", "bucket", "encode_captions", "encode_latents")
    wanted = names or every
    return [
        StageState(name, "committed", outcome.artifacts[name])
        if name in outcome.artifacts and name in wanted
        else StageState(name, "not run", why="waits")
        for name in every
    ]


class Page(HTMLParser):
    """The elements of a page, as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words = ""
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.words += data

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""


def assert_harmless(text: str) -> Page:
    """One script, the page's own; nothing that loads or runs; no address anywhere but in quoted text."""
    page = Page(text)
    own = "".join(page.scripts)
    assert [tag for tag, _ in page.tags].count("script") == 1
    digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert f"script-src 'sha256-{digest}'" in str(policy) and "default-src 'none'" in str(policy)
    for tag, attrs in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "form", "base", "a"), tag
        assert not [key for key in attrs if key.startswith("on") or key in ("href", "action", "srcdoc", "xlink:href")]
        assert str(attrs.get("src", "data:")).startswith("data:")
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style and "url(" not in text and "@import" not in style[1] and "http" not in style[1] + own
    return page


def test_hostile_names_and_captions_are_text(done: tuple[Place, Outcome]) -> None:
    place, outcome = done
    text = data_report(place.context(), "<b>demo</b>", states_of(outcome), now=0.0)
    page = assert_harmless(text)
    assert "<script>alert" not in text and "<img src=http" not in text and "<b>demo" not in text
    assert "nobody-<script>alert(1)<script>\\n\\u202e\"'&.mp4" in page.words, "it is there, spelled"
    assert "<b>demo</b>" in page.words and CAPTION.partition("\n")[0] in page.words
    # without it, no address of anything is on the page at all
    assert "://" not in re.sub(r"https?://evil\.example", "", text).replace(place.root, "")


def test_the_same_artifacts_give_the_same_bytes_but_for_the_time(done: tuple[Place, Outcome]) -> None:
    place, outcome = done
    one, again, later = (
        data_report(place.context(), "demo", states_of(outcome), now=now).splitlines() for now in (0.0, 0.0, 86400.0)
    )
    assert one == again
    differ = [(a, b) for a, b in zip(one, later, strict=True) if a != b]
    assert [(a.replace("1970-01-01", "1970-01-02"), b) for a, b in differ] == [(b, b) for _, b in differ]
    assert len(differ) == 1


def test_the_numbers_on_the_page_are_those_of_the_artifacts(done: tuple[Place, Outcome]) -> None:
    place, outcome = done
    words = Page(data_report(place.context(), "demo", states_of(outcome), now=0.0)).words
    for name in ("download", "probe", "bucket"):
        counts = outcome[name].counts
        assert f"{counts['in']} = {counts['out']} + {counts['refused']}" in words
    assert "holds at every stage" in words and "NOT" not in words
    for path in ("nocaption-00.mp4", "corrupt-00.mp4", "short-00.mp4"):
        assert path in words
    assert "48 captions of 16 clips; 100 % of the clips have several" in words


def thumbnails_of(text: str) -> list[Image.Image]:
    found = [base64.b64decode(data) for data in re.findall(r"data:image/jpeg;base64,([^\"]+)", text)]
    assert all(len(data) <= 6 * 1024 for data in found)
    return [Image.open(io.BytesIO(data)) for data in found]


def test_a_thumbnail_is_what_training_sees(done: tuple[Place, Outcome]) -> None:
    place, outcome = done
    text = data_report(place.context(), "demo", states_of(outcome), now=0.0)
    windows = read_table(place.context().store, outcome["bucket"], "clips.parquet").to_pylist()
    pictures = thumbnails_of(text)
    assert len(pictures) == len(windows)
    assert text.count('<img class="eval"') == sum(row["split"] == "eval" for row in windows) > 0
    shapes = sorted(round(picture.width / picture.height, 1) for picture in pictures)
    wanted = sorted(
        round(width / height, 1) for _, height, width in (map(int, row["bucket"].split("x")) for row in windows)
    )
    assert shapes == pytest.approx(wanted, abs=0.11)


@pytest.mark.parametrize(("last", "there", "missing"), [
    (0, [], ["flow", "refused", "buckets", "videos", "captions"]),
    (1, ["flow", "refused", "captions", "storage"], ["buckets", "videos"]),
    (2, ["flow", "refused", "captions", "videos"], ["buckets", "thumbnails"]),
    (3, ["flow", "refused", "captions", "videos", "buckets", "thumbnails"], ["eval"]),
])  # fmt: skip
def test_a_part_of_a_pipeline_shows_what_is_there(
    done: tuple[Place, Outcome], last: int, there: list[str], missing: list[str]
) -> None:
    place, outcome = done
    names = ["download", "probe", "bucket"][:last] or ["none"]
    text = data_report(place.context(), "demo", states_of(outcome, *names), now=0.0)
    sections = set(re.findall(r'<section id="(\w+)">', text))
    assert set(there) <= sections and (last == 0 or not set(missing) & sections)
    assert f"{last} of 5 stages are committed" in text


def test_where_a_clip_gives_several_samples_the_page_says_so(done: tuple[Place, Outcome]) -> None:
    place = done[0]
    several = place.context("probe.duplicates=keep", "bucket.window=stride", "bucket.windows_per_clip=3")
    outcome = run_stages(several, last="bucket")
    counts = outcome["bucket"].counts
    assert counts["samples"] > counts["out"], "or this is a test of nothing"
    words = Page(data_report(several, "demo", states_of(outcome), now=0.0)).words
    assert f"{counts['out']} clips give {counts['samples']} samples, which are counted from there on" in words
    assert "holds at every stage" in words and f"samples chosen{counts['samples']}" in words
    assert f"frames used{counts['frames_used']}" in words and f"frames dropped{counts['frames_dropped']}" in words


def location(number: int, shape: list[int]) -> dict:
    return {"shard": f"s{number // 4}", "offset": 100 * number, "num_bytes": 100, "digest": "", "dtype": "fp16",
            "shape": shape, "made_by": ""}  # fmt: skip


def encoded(place: Place, outcome: Outcome) -> Outcome:
    """The two encode stages without a model: indexes of the windows but one, which is refused, to no tensors."""
    context = place.context()
    windows = read_table(context.store, outcome["bucket"], "clips.parquet").to_pylist()
    kept, lost = windows[1:], [{**windows[0], "stage": "encode_latents", "reason": "truncated", "detail": "late"}]
    rows = [{**row, "sample_key": "", **location(n, [16, 3, 4, 4])} for n, row in enumerate(kept)]
    rows[1] |= {name: rows[0][name] for name in ("shard", "offset")}  # two samples of one content
    draft = Draft(context.store, Recipe("encode_latents", 1, {}, {}))
    draft.add("index.parquet", to_parquet(table_of(rows, LATENT_INDEX)))
    refused = table_of(lost, REJECTS)
    draft.add("rejects.parquet", to_parquet(refused))
    facts = {"datasets": {"demo": [len(windows), 1]}}
    latents = draft.commit(content={}, counts=count_rejects(len(windows), len(kept), refused), facts=facts)
    draft = Draft(context.store, Recipe("encode_captions", 1, {"max_tokens": 30}, {}))
    texts = [
        {"role": "train", "name": "", "position": 0, "text_key": "", "text": "", "template": "video",
         "truncated": n < 2, **location(n, [30 if n < 2 else 10 + n, 8])}
        for n in range(8)
    ]  # fmt: skip
    draft.add("index.parquet", to_parquet(table_of(texts, CAPTION_INDEX)))
    captions = draft.commit(content={}, counts={"in": 8, "out": 8, "refused": 0})
    artifacts = {**outcome.artifacts, "encode_captions": captions, "encode_latents": latents}
    return Outcome(artifacts, [])


def test_an_encoded_run_shows_samples_tokens_and_bytes(done: tuple[Place, Outcome]) -> None:
    place, outcome = done
    whole = encoded(place, outcome)
    text = data_report(place.context(), "demo", states_of(whole), now=0.0)
    words = assert_harmless(text).words
    num_windows = outcome["bucket"].counts["out"]
    assert len(thumbnails_of(text)) == num_windows - 1, "of a sample that is not in the store there is no picture"
    assert f"{num_windows} = {num_windows - 1} + 1" in words and "2 captions (25.0 %) were cut at 30" in words
    assert "100 B a sample" in words and "100 B a text" in words


def test_a_store_on_s3_gives_the_page_of_a_folder(done: tuple[Place, Outcome], s3: WeedServer) -> None:
    place, outcome = done
    there = place.context(f"root=s3://{s3.bucket}/report")
    for key, _ in place.context().store.list(""):
        assert there.store.put_if_absent(key, place.context().store.read(key))
    here, moved = (data_report(at, "demo", states_of(outcome), now=0.0) for at in (place.context(), there))
    assert moved.replace(there.store.root, place.context().store.root) == here


def test_a_page_of_many_long_hostile_names_stays_small(done: tuple[Place, Outcome], tmp_path: Path) -> None:
    place, outcome = done
    names = [f"{number}/" + '"<&\u202e' * 200 for number in range(4_000)]
    rows = [{"clip_id": clip_id_of("demo", path), "dataset": "demo", "path": path, "stage": "download",
             "reason": "no_caption", "detail": path} for path in names]  # fmt: skip
    context = place.context(f"root={tmp_path}/root")
    draft = Draft(context.store, Recipe("download", 1, {}, {}))
    refused = table_of(rows, REJECTS)
    draft.add("rejects.parquet", to_parquet(refused))
    for name in ("clips.parquet", "captions.parquet"):
        draft.add(name, to_parquet(read_table(place.context().store, outcome["download"], name)))
    facts = {"datasets": {"demo": [4_000, 4_000]}}
    made = draft.commit(content={}, counts=count_rejects(4_000, 0, refused), facts=facts)
    text = data_report(context, "demo", [StageState("download", "failed", made, "too many")], now=0.0)
    assert len(text.encode()) < 3_000_000
    assert_harmless(text)
    assert "of 4,000" in text and "too many" in text and made.files["rejects.parquet"].key in text


def command(place: Place, out: Path, *overrides: str) -> list[str]:
    sets = [f"root={place.root}", f"work_dir={place.folder / 'work'}", f"download.datasets.0.source={place.clips}",
            f"model.path={place.model}", *overrides]  # fmt: skip
    return ["report", "configs/demo.yaml", "-o", str(out), *(part for text in sets for part in ("-s", text))]


def test_the_command_needs_storage_alone(
    done: tuple[Place, Outcome], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Place(done[0].folder, done[0].model, done[0].root)
    # a limit that the run would have failed at hides nothing
    main(command(place, tmp_path / "one.html", "download.datasets.0.max_refused_fraction=0", "probe.duplicates=keep"))
    assert "data report:" in capsys.readouterr().out
    one = (tmp_path / "one.html").read_text()
    assert "3 of 8 stages are committed" in one and len(thumbnails_of(one)) == done[1]["bucket"].counts["out"]
    place.clips.rename(place.folder / "away")
    try:
        main(command(place, tmp_path / "two.html", "probe.duplicates=keep"))
    finally:
        (place.folder / "away").rename(place.clips)
    two = (tmp_path / "two.html").read_text()
    assert "as it was when last listed" in two and "not shown" in two and not thumbnails_of(two)
    with pytest.raises(SystemExit):
        main(command(place, tmp_path / "three.html", f"root={tmp_path}/empty"))
    assert f"nothing of configs/demo.yaml is committed under {tmp_path}/empty; run it" in capsys.readouterr().err
    assert not (tmp_path / "three.html").exists() and not (tmp_path / "empty").exists()


def tracked(context: Context, title: str, outcome: Outcome, state: str, *, error: Exception | None = None) -> str:
    """Record a flow run as tasks do; returns the page on the pipeline's run."""
    book = StageBook()
    for name, artifact in outcome.artifacts.items():
        book.start(name)
        book.committed(name, state, artifact)
        if error is None:
            book.done()
    with Tracker(context.config, context.store, "key", {}) as tracker:
        record_report(tracker, context, title, book.states(error))
    return page_of(context, tracker)


def page_of(context: Context, tracker: Tracker) -> str:
    client = MlflowClient(tracking_uri=tracking_uri(context.config))
    return Path(client.download_artifacts(str(tracker.run_id), PAGE)).read_text()


def test_mlflow_keeps_the_page_and_a_cached_run_leaves_it(
    done: tuple[Place, Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    place, outcome = done
    context = Context(place.config(f"work_dir={tmp_path}/work"), open_store(place.root), tmp_path / "work")
    failed = tracked(context, "one", outcome, "Completed", error=ValueError("a <limit>"))
    assert '<span class="bad">failed</span>' in failed and "a &lt;limit&gt;" in failed
    assert failed.count('<span class="ok">completed</span>') == 2
    assert "<h1>two</h1>" in tracked(context, "two", outcome, "Completed")
    assert "<h1>two</h1>" in tracked(context, "three", outcome, "Cached"), "all is cached: nothing is made"
    # a damaged store costs the page, not the run
    artifact = outcome["probe"]
    gone = {name: dataclasses.replace(file, key="probe/none") for name, file in artifact.files.items()}
    damaged = dataclasses.replace(artifact, files=gone)
    broken = Outcome({**outcome.artifacts, "probe": damaged}, [])
    assert "<h1>two</h1>" in tracked(context, "four", broken, "Completed")
