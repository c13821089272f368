"""What is done to fields and colours is said by check, by the run, by validate after it, and on the report's page."""

import logging
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flows.cli.main import cli
from sana.context import Context
from sana.data.schemas import SAMPLE_KEY_COLUMNS
from sana.data.tables import read_table, sample_keys
from sana.data.video.frames import read_window
from sana.facts import BucketFacts
from sana.report.page import data_report
from sana.report.states import StageState
from tests.colored_videos import HEVC, TONE_MAP, filtered, make_chart, make_interlaced
from tests.pipeline_runs import ROOT, Place, inline_workers, run_stages
from tests.video_files import make_video

pytestmark = pytest.mark.timeout(120)

PAPER_WHITE = {"pq": 146, "hlg": 189}  # 203 nits, coded by each curve: what is seen of it untreated
LINES = [
    "2 clips are tone-mapped to SDR (1 hlg, 1 pq)",
    "1 clip is taken for BT.709 (untagged, from 720 lines on)",
    "1 clip is deinterlaced",
    "1 clip is used as it is: primaries smpte432",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("told")
    clips = folder / "clips"
    clips.mkdir()
    tags = {"matrix": "bt2020nc", "primaries": "bt2020", "coded_by": "bt2020", "pixel_format": "yuv420p10le"}
    for name, transfer in (("pq", "smpte2084"), ("hlg", "arib-std-b67")):
        white = f"color=c=#{f'{PAPER_WHITE[name]:02x}' * 3}:s=320x192:r=16"
        make_chart(clips / f"{name}.mp4", white, transfer=transfer, num_frames=5, encoder=HEVC, **tags)
    make_chart(clips / "hd.mp4", "testsrc2=s=1280x720:r=8", num_frames=5)
    make_chart(clips / "p3.mp4", "testsrc2=s=320x192:r=8", num_frames=5, matrix="bt709", primaries="smpte432")
    make_interlaced(clips / "woven.mp4", num_frames=5)
    for name in ("sd", "sd too"):
        make_video(clips / f"{name}.mp4", num_frames=5 + len(name), width=320, height=192)
    for path in [*clips.iterdir()]:
        path.with_suffix(".txt").write_text(f"what {path.stem} shows")
    (folder / "model").mkdir()
    return Place(folder, folder / "model", str(folder / "root"))


RULES = (
    "bucket={buckets: [5x64x96], eval_fraction: 0.3}",
    "download.datasets.demo.source_pattern=null",
    "sample.bucket=5x64x96",
)


def say(place: Place, command: str, *overrides: str) -> Result:
    places = [f"root={place.root}", f"work_dir={place.folder}/work", f"download.datasets.0.source={place.clips}"]
    settings = [*places, f"model.path={place.model}", *RULES, *overrides]
    with inline_workers():
        return CliRunner().invoke(
            cli, [command, str(ROOT / "configs/demo.yaml"), *(x for text in settings for x in ("-s", text))]
        )


def test_counts_are_said_before_in_and_after_a_run(
    place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = say(place, "check").output.splitlines()
    assert [line for line in shown if line in LINES] == LINES, shown
    context = place.context(*RULES)
    with caplog.at_level(logging.WARNING), inline_workers():
        made = run_stages(context, last="bucket")
    assert [one.getMessage() for one in caplog.records][-4:] == LINES
    assert BucketFacts.of(made["bucket"]).treatments == {"pq": 1, "hlg": 1, "bt709": 1, "bwdif": 1}
    monkeypatch.setattr("sana.pipeline.plan.preflight", lambda context: [])  # there is no model here
    assert [line for line in say(place, "validate").output.splitlines() if line.startswith("note: ")] == [
        f"note: {line}" for line in LINES
    ]
    states = [StageState(name, "cached", artifact) for name, artifact in made.artifacts.items()]
    page = data_report(context, "told", states, now=0.0)
    [told] = re.findall(r'<p id="treatments">(.*?)</p>', page, flags=re.DOTALL)
    assert told.endswith(f": {'; '.join(LINES)}.")


def windows_of(context: Context) -> dict[str, dict]:
    with inline_workers():
        table = read_table(context.store, run_stages(context, last="bucket")["bucket"], "clips.parquet")
    keys = sample_keys(table).to_pylist()
    return {Path(row["path"]).stem: row | {"key": key} for row, key in zip(table.to_pylist(), keys, strict=True)}


def test_policies_hold_for_a_data_set_and_move_the_keys_of_what_they_change(place: Place) -> None:
    usual, as_is = (
        windows_of(place.context(*RULES, *more)) for more in ((), ("bucket.hdr=as_is", "bucket.interlaced=as_is"))
    )
    own = "download.datasets.demo.bucket={buckets: [5x64x96], hdr: reject, interlaced: reject}"
    rejecting = windows_of(place.context(*RULES, own))
    assert set(usual) == set(as_is) == {"pq", "hlg", "hd", "p3", "woven", "sd", "sd too"}
    assert set(rejecting) == {"hd", "p3", "sd", "sd too"}
    assert {name for name in usual if usual[name]["key"] != as_is[name]["key"]} == {"pq", "hlg", "woven"}
    assert {row["treatment"] for row in as_is.values()} == {"", "bt709"}
    for name in PAPER_WHITE:
        path = place.clips / f"{name}.mp4"
        seen, washed = (
            read_window(path, {key: rows[name][key] for key in SAMPLE_KEY_COLUMNS}).mean() for rows in (usual, as_is)
        )
        assert abs(seen - filtered(path, TONE_MAP, height=192, width=320).mean()) <= 1
        assert abs(washed - PAPER_WHITE[name]) <= 4
