"""Too many rejections: which data set, which reasons of it, and the change that would help against each."""

from pathlib import Path
from typing import Any

import pytest

from sana.arrow import table_of, to_parquet, value_counts
from sana.artifact import Artifact, FileInfo
from sana.config.load import load_config
from sana.config.pipeline import Config
from sana.counts import DatasetCounts
from sana.data.rejections import REMEDIES, check_rejects, fraction_of, is_too_many, remedy
from sana.data.schemas import REJECTS, Reason
from sana.data.tables import count_rejects
from sana.errors import RejectedError
from sana.stages.filter_captions import CaptionReason
from sana.store import open_store
from tests.config_keys import dotted

pytestmark = pytest.mark.timeout(60)


def config(*datasets: dict[str, Any]) -> Config:
    """The demo's config with these data sets, of which each allows a fifth to be rejected unless it says otherwise."""
    listed = [{"source": ".", "max_rejected_fraction": 0.2, **dataset} for dataset in datasets or [{"id": "demo"}]]
    return load_config("configs/demo.yaml", [f"download.datasets={listed}"])


def told(folder: Path, config: Config, num_in: dict[str, int], *rejected: tuple[str, str, str, str]) -> str:
    """Return the error of a stage that rejected clips (data set, path, reason, detail); empty for none."""
    rows = [
        {"clip_id": str(i), "dataset": name, "path": path, "stage": "probe", "reason": reason, "detail": detail}
        for i, (name, path, reason, detail) in enumerate(rejected)
    ]
    table = table_of(rows, REJECTS)
    store, key, data = open_store(str(folder)), "probe/f/x/rejects.parquet", to_parquet(table)
    store.put_if_absent(key, data)
    made = Artifact(
        stage="probe", fingerprint="f", version=1, config={}, inputs={}, content={},
        counts=count_rejects(num_in, sum(num_in.values()) - len(rows), table),
        files={"rejects.parquet": FileInfo(key, len(data), "d")},
    )  # fmt: skip
    assert dict(value_counts(table["reason"])) == made.counts.reasons
    try:
        check_rejects(config, made, store)
    except RejectedError as error:
        return str(error)
    return ""


def bad(num: int, dataset: str = "demo") -> list[tuple[str, str, str, str]]:
    return [(dataset, f"{i}.mp4", "truncated", "") for i in range(num)]


@pytest.mark.parametrize(
    ("num_in", "rejected", "fails"), [(100, 20, False), (100, 21, True), (5, 5, True), (5, 0, False)]
)
def test_too_many_rejections_stop_the_run_and_say_why(tmp_path: Path, num_in: int, rejected: int, fails: bool) -> None:
    message = told(tmp_path, config(), {"demo": num_in}, *bad(rejected))
    assert bool(message) == fails
    assert not fails or f"{rejected} truncated" in message and "rejects.parquet" in message


def test_counts_are_of_the_data_set_and_its_own_remedy_comes_first(tmp_path: Path) -> None:
    twins = [("lo", f"{i}.mp4", "duplicate", f"the same content as lo: {i}b.mp4") for i in range(3)]
    message = told(tmp_path, config({"id": "lo"}, {"id": "hi"}), {"lo": 4, "hi": 10}, *twins, *bad(1, "hi"))
    assert message.splitlines() == [
        "probe: download.datasets[lo]: 3 of 4 clips were rejected (3 duplicate); more than max_rejected_fraction 0.2 "
        "allows (to go on without them: -s download.datasets.lo.max_rejected_fraction=0.75)",
        "    duplicate, such as 0.mp4: the same content as lo: 0b.mp4: keep all copies by probe.duplicates: keep, or "
        "remove them from the data set",
        f"  every rejection is listed in {tmp_path}/probe/f/x/rejects.parquet",
    ]


def test_every_data_set_above_its_limit_is_told(tmp_path: Path) -> None:
    names = ("a", "b", "c", "d")
    message = told(
        tmp_path,
        config(*({"id": name} for name in names)),
        dict.fromkeys(names, 3),
        *(one for name in names[:3] for one in bad(2, name)),
    )
    lines = message.splitlines()
    assert lines[0] == "probe: too many clips were rejected" and lines[5] == "  and 1 more data sets: c"
    assert [line.split()[0] for line in lines[1:5:2]] == ["download.datasets[a]:", "download.datasets[b]:"]
    assert len(lines) <= 8


def test_where_none_is_left_no_limit_is_proposed(tmp_path: Path) -> None:
    short = [("demo", f"{n}.mp4", "too_short", f"{n} frames; the shortest bucket needs 81") for n in (9, 24, 17)]
    message = told(tmp_path, config(), {"demo": 4}, *short, ("demo", "x.mp4", "odd", ""))
    assert message.splitlines()[:4] == [
        "probe: no clip is left of 4",
        "  download.datasets[demo]: 4 of 4 clips were rejected (3 too_short, 1 odd); none is left",
        "    too_short, such as 24.mp4: 24 frames; the shortest bucket needs 81: lower bucket.num_frames (or buckets, "
        "min_frames), or use longer clips",
        "    odd, such as x.mp4: change these files, or the settings of the stage",
    ]
    assert "max_rejected_fraction" not in message


def test_every_reason_has_a_remedy_whose_settings_exist() -> None:
    settings = config({"id": "demo", "bucket": {"buckets": ["9x96x160"]}})
    assert set(REMEDIES) == {*Reason, *CaptionReason}
    known = {key.replace("datasets.*", "datasets.demo") for key in dotted()}
    for reason in REMEDIES:
        text = remedy(settings, "demo", reason)
        named = [word.rstrip(":,") for word in text.split() if "." in word.strip(".") or word.startswith("download.")]
        assert all(name in known for name in named if name != "captions.layout"), (reason, named)
    assert remedy(settings, "demo", "too_small").startswith("set download.datasets.demo.bucket.allow_upscale")
    assert remedy(config(), "demo", "too_small").startswith("set bucket.allow_upscale")


def test_a_limit_allows_what_it_says_whatever_floats_make_of_it() -> None:
    """0.29 * 100 is 28.999999999999996, and 100 * 7 / 100 is 7.000000000000001."""
    for num_in in (3, 7, 100, 1000, 9_999_991):
        for share in range(101):
            allowed = share * num_in // 100
            assert not is_too_many(DatasetCounts(num_in, allowed), share / 100)
            assert is_too_many(DatasetCounts(num_in, allowed + 1), share / 100)
            needed = fraction_of(DatasetCounts(num_in, allowed))
            assert needed <= share / 100 and not is_too_many(DatasetCounts(num_in, allowed), needed)
