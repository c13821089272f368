"""The data report of real runs: whole, partial, encoded, of files whose names are hostile."""

import re
from pathlib import Path

import pytest

from sana.arrow import table_of, to_parquet
from sana.artifact import Draft, Recipe
from sana.counts import Counts
from sana.data.schemas import CAPTION_INDEX, LATENT_INDEX, REJECTS
from sana.data.tables import clip_id_of, count_rejects, read_table
from sana.facts import BucketFacts, DownloadFacts
from sana.report.page import data_report
from sana.report.states import StageState
from tests.pipeline_runs import Outcome, Place, run_stages
from tests.report_pages import CAPTION, Page, assert_harmless, run_with_hostile_names, states_of, thumbnails_of

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, Outcome]:
    return run_with_hostile_names(tmp_path_factory.mktemp("report"))


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
        assert f"{counts.num_in} = {counts.num_out} + {counts.num_rejected}" in words
    assert "holds at every stage" in words and "NOT" not in words
    for path in ("nocaption-00.mp4", "corrupt-00.mp4", "short-00.mp4"):
        assert path in words
    assert "1 file is neither a video nor the captions of one" in words and "1 .<i>webp" in words
    assert outcome["download"].counts.extra["unused_files"] == 1
    assert "48 captions of 16 clips; 100 % of the clips have several" in words


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
    (0, [], ["flow", "rejected", "buckets", "videos", "captions"]),
    (1, ["flow", "rejected", "captions", "storage"], ["buckets", "videos"]),
    (2, ["flow", "rejected", "captions", "videos"], ["buckets", "thumbnails"]),
    (3, ["flow", "rejected", "captions", "videos", "buckets", "thumbnails"], ["eval"]),
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
    counts, facts = outcome["bucket"].counts, BucketFacts.of(outcome["bucket"])
    assert counts.num_samples > counts.num_out, "or this is a test of nothing"
    words = Page(data_report(several, "demo", states_of(outcome), now=0.0)).words
    assert f"{counts.num_out} clips give {counts.num_samples} samples, which are counted from there on" in words
    assert "holds at every stage" in words and f"samples chosen{counts.num_samples}" in words
    assert f"frames used{facts.frames_used}" in words and f"frames dropped{facts.frames_dropped}" in words


def location(number: int, shape: list[int]) -> dict:
    return {"shard": f"s{number // 4}", "offset": 100 * number, "num_bytes": 100, "digest": "", "dtype": "fp16",
            "shape": shape, "provenance": ""}  # fmt: skip


def encoded(place: Place, outcome: Outcome) -> Outcome:
    """The two encode stages without a model: indexes of the windows but one, which is rejected, to no tensors."""
    context = place.context()
    windows = read_table(context.store, outcome["bucket"], "clips.parquet").to_pylist()
    kept, lost = windows[1:], [{**windows[0], "stage": "encode_latents", "reason": "truncated", "detail": "late"}]
    rows = [{**row, "sample_key": "", **location(n, [16, 3, 4, 4])} for n, row in enumerate(kept)]
    rows[1] |= {name: rows[0][name] for name in ("shard", "offset")}  # two samples of one content
    draft = Draft(context.store, Recipe("encode_latents", 1, {}, {}))
    draft.add("index.parquet", to_parquet(table_of(rows, LATENT_INDEX)))
    rejected = table_of(lost, REJECTS)
    draft.add("rejects.parquet", to_parquet(rejected))
    latents = draft.commit(content={}, counts=count_rejects({"demo": len(windows)}, len(kept), rejected))
    draft = Draft(context.store, Recipe("encode_captions", 1, {"max_tokens": 30}, {}))
    texts = [
        {"role": "train", "name": "", "position": 0, "text_key": "", "text": "", "template": "video",
         "truncated": n < 2, **location(n, [30 if n < 2 else 10 + n, 8])}
        for n in range(8)
    ]  # fmt: skip
    draft.add("index.parquet", to_parquet(table_of(texts, CAPTION_INDEX)))
    captions = draft.commit(content={}, counts=Counts.all_kept(8))
    artifacts = {**outcome.artifacts, "encode_captions": captions, "encode_latents": latents}
    return Outcome(artifacts, [])


def test_an_encoded_run_shows_samples_tokens_and_bytes(done: tuple[Place, Outcome]) -> None:
    place, outcome = done
    whole = encoded(place, outcome)
    text = data_report(place.context(), "demo", states_of(whole), now=0.0)
    words = assert_harmless(text).words
    num_windows = outcome["bucket"].counts.num_out
    assert len(thumbnails_of(text)) == num_windows - 1, "of a sample that is not in the store there is no picture"
    assert f"{num_windows} = {num_windows - 1} + 1" in words and "2 captions (25.0 %) were cut at 30" in words
    assert "100 B a sample" in words and "100 B a text" in words
    assert "truncated (probe)" in words and "truncated (encode_latents)" in words, "two columns of one reason"
    assert "no_caption (" not in words


def test_a_page_of_many_long_hostile_names_stays_small(done: tuple[Place, Outcome], tmp_path: Path) -> None:
    place, outcome = done
    names = [f"{number}/" + '"<&\u202e' * 200 for number in range(4_000)]
    rows = [{"clip_id": clip_id_of("demo", path), "dataset": "demo", "path": path, "stage": "download",
             "reason": "no_caption", "detail": path} for path in names]  # fmt: skip
    context = place.context(f"root={tmp_path}/root")
    draft = Draft(context.store, Recipe("download", 1, {}, {}))
    rejected = table_of(rows, REJECTS)
    draft.add("rejects.parquet", to_parquet(rejected))
    for name in ("clips.parquet", "captions.parquet"):
        draft.add(name, to_parquet(read_table(place.context().store, outcome["download"], name)))
    counts = count_rejects({"demo": 4_000}, 0, rejected)
    made = draft.commit(content={}, counts=counts, facts=DownloadFacts({"demo": ""}))
    text = data_report(context, "demo", [StageState("download", "failed", made, "too many")], now=0.0)
    assert len(text.encode()) < 3_000_000
    assert_harmless(text)
    assert "of 4,000" in text and "too many" in text and made.files["rejects.parquet"].key in text
