"""What is done to fields and colours: everything that probe knows of them is used, rejected or counted."""

from typing import Any

import pytest

from sana.config.bucket import BucketRules
from sana.data.bucketing.treatments import Coding, rejection_of, treatment_lines, treatment_of
from sana.data.bucketing.window_table import make_window_table
from sana.data.schemas import SAMPLE_KEY_COLUMNS, TREATMENTS
from sana.data.tables import content_digest, sample_key
from tests.bucket_rules import config
from tests.probed_clips import probed

PLAIN: dict[str, Any] = {
    "is_hd": True,
    "variable_fps": False,
    "codec": "h264",
    "pixel_format": "yuv420p",
    "color_space": "bt709",
    "color_primaries": "bt709",
    "color_transfer": "bt709",
    "field_order": "progressive",
}
UNTAGGED = dict.fromkeys(("color_space", "color_primaries", "color_transfer"), "unknown")
PQ = {"color_space": "bt2020nc", "color_primaries": "bt2020", "color_transfer": "smpte2084"}
HLG = PQ | {"color_transfer": "arib-std-b67"}
SD = {"is_hd": False}
WOVEN = {"field_order": "tt"}
# (coding, rules, treatment or the reason of the rejection, what its detail says)
DECISIONS: list[tuple[dict[str, Any], dict[str, str], str, str]] = [
    ({}, {}, "", ""),
    (SD, {}, "", ""),
    ({"color_space": "smpte170m"}, {}, "", ""),
    ({"color_space": "bt2020nc", "color_primaries": "bt2020", "color_transfer": "bt2020-10"}, {}, "", ""),
    (UNTAGGED, {}, "bt709", ""),
    (UNTAGGED | SD, {}, "", ""),
    (UNTAGGED | {"pixel_format": "p010le"}, {}, "bt709", ""),
    (UNTAGGED | {"pixel_format": "yuvj420p"}, {}, "bt709", ""),
    (UNTAGGED | {"pixel_format": "gbrp"}, {}, "", ""),
    (UNTAGGED | {"pixel_format": "rgb24"}, {}, "", ""),
    (UNTAGGED | {"pixel_format": "pal8"}, {}, "", ""),
    (UNTAGGED | {"pixel_format": "gray"}, {}, "", ""),
    (UNTAGGED | {"color_primaries": "bt2020"}, {}, "bt2020", ""),
    (UNTAGGED, {"hdr": "reject", "interlaced": "reject"}, "bt709", ""),
    (PQ, {}, "pq", ""),
    (HLG, {}, "hlg", ""),
    (HLG | SD, {}, "hlg", ""),
    (UNTAGGED | {"color_transfer": "smpte2084"}, {}, "pq", ""),
    (PQ, {"hdr": "as_is"}, "", ""),
    (UNTAGGED | {"color_transfer": "smpte2084"}, {"hdr": "as_is"}, "bt709", ""),
    (PQ, {"hdr": "reject"}, "hdr", "smpte2084 (pq); bucket.hdr is reject"),
    (HLG, {"hdr": "reject"}, "hdr", "arib-std-b67 (hlg); bucket.hdr is reject"),
    (PQ | {"color_space": "ictcp"}, {}, "color", "matrix ictcp"),
    (PQ | {"color_space": "ictcp"}, {"hdr": "as_is"}, "color", "matrix ictcp"),
    (PQ | {"color_space": "bt2020c"}, {}, "color", "matrix bt2020c"),
    ({"color_space": "ycgco"}, {}, "color", "matrix ycgco"),
    (PQ | {"color_primaries": "smpte432"}, {}, "pq", ""),
    (PQ | {"color_primaries": "film"}, {}, "color", "primaries film"),
    (PQ | {"color_primaries": "film"}, {"hdr": "as_is"}, "", ""),
    (WOVEN, {}, "bwdif", ""),
    (WOVEN | {"field_order": "bt"}, {}, "bwdif", ""),
    (WOVEN | UNTAGGED, {}, "bwdif+bt709", ""),
    (WOVEN | HLG, {}, "bwdif+hlg", ""),
    (WOVEN, {"interlaced": "as_is"}, "", ""),
    (WOVEN, {"interlaced": "reject"}, "interlaced", "order is tt; bucket.interlaced is reject"),
    (WOVEN | {"codec": "hevc"}, {}, "interlaced", "hevc keeps its fields (order tt)"),
    (WOVEN | {"codec": "hevc"}, {"interlaced": "as_is"}, "", ""),
    ({"field_order": "unknown"}, {}, "", ""),
    ({"field_order": "unknown", "codec": "dvvideo"} | SD, {}, "bwdif", ""),
    ({"field_order": "unknown", "codec": "dvvideo"}, {"interlaced": "reject"}, "interlaced", "that of dvvideo"),
]


@pytest.mark.parametrize(("coding", "policy", "expected", "detail"), DECISIONS)
def test_what_is_done_to_a_clip(coding: dict, policy: dict, expected: str, detail: str) -> None:
    found, rules = Coding(**PLAIN | coding), BucketRules(**policy)
    rejection = rejection_of(found, rules)
    if detail:
        assert rejection is not None and rejection[0] == expected and detail in rejection[1]
    else:
        assert rejection is None and treatment_of(found, rules) == expected and expected in TREATMENTS


def clip_of(coding: dict[str, Any], **facts: Any) -> dict[str, Any]:
    lines = {"width": 1280, "height": 720} if coding["is_hd"] else {}
    return {**lines, **{name: value for name, value in coding.items() if name != "is_hd"}, "rotation_deg": 0, **facts}


def table_of(clips: list[dict[str, Any]], **rules: Any) -> Any:
    made = config(**{"buckets": ["17x96x160"], **rules})
    return make_window_table(probed(clips), made)


def test_every_clip_gets_what_the_table_says_whatever_stands_beside_it() -> None:
    for rules in ({}, {"hdr": "as_is"}, {"hdr": "reject"}, {"interlaced": "as_is"}, {"interlaced": "reject"}):
        cases = [case for case in DECISIONS if case[1] == rules]
        made = table_of([clip_of(PLAIN | coding, path=f"{n}") for n, (coding, *_) in enumerate(cases)], **rules)
        found = dict(zip(made.windows["path"].to_pylist(), made.windows["treatment"].to_pylist(), strict=True))
        for row in made.rejects.to_pylist():
            found[row["path"]] = row["reason"]
            assert cases[int(row["path"])][3] in row["detail"]
        assert found == {f"{n}": expected for n, (_, _, expected, _) in enumerate(cases)}


def test_hd_is_decided_by_coded_lines() -> None:
    sizes = {  # width and height on display, rotation: is it HD?
        (1280, 720, 0): "bt709", (1280, 718, 0): "", (720, 1280, 90): "bt709", (718, 1280, 270): "",
        (720, 1280, 0): "bt709", (1280, 718, 180): "",
    }  # fmt: skip
    clips = [clip_of(PLAIN | UNTAGGED, width=width, height=height, rotation_deg=turn) for width, height, turn in sizes]
    assert table_of(clips).windows["treatment"].to_pylist() == list(sizes.values())


def test_what_is_done_and_what_is_not_is_counted_and_told() -> None:
    p3 = PLAIN | {"color_primaries": "smpte432"}
    clips = [clip_of(PLAIN | coding) for coding in (PQ, HLG, HLG, WOVEN | UNTAGGED, UNTAGGED, {}, {})]
    clips += [clip_of(p3 | {"color_transfer": "linear"}), clip_of(p3), clip_of(PLAIN | {"color_space": "ycgco"})]
    clips += [clip_of(PLAIN | PQ, width=90, height=50)]  # too small: not among those that are used
    made = table_of(clips)
    assert made.facts.treatments == {"bt709": 1, "pq": 1, "hlg": 2, "bwdif+bt709": 1}
    assert made.facts.untreated == {"transfer linear, primaries smpte432": 1, "primaries smpte432": 1}
    assert made.counts.reasons == {"color": 1, "too_small": 1} and made.counts.num_out == 9
    assert treatment_lines(made.facts) == [
        "3 clips are tone-mapped to SDR (2 hlg, 1 pq)",
        "2 clips are taken for BT.709 (untagged, from 720 lines on)",
        "1 clip is deinterlaced",
        "1 clip is used as it is: primaries smpte432",
        "1 clip is used as it is: transfer linear, primaries smpte432",
    ]
    as_is = table_of(clips, hdr="as_is", interlaced="as_is").facts
    assert as_is.treatments == {"bt709": 2}
    assert as_is.untreated | made.facts.untreated == as_is.untreated == {
        "transfer smpte2084": 1, "transfer arib-std-b67": 2, "interlaced": 1, **made.facts.untreated
    }  # fmt: skip
    assert treatment_lines(table_of([clip_of(PLAIN)]).facts) == []
    varying = [clip_of(PLAIN | {"variable_fps": True}), clip_of(PLAIN | {"variable_fps": True})]
    assert treatment_lines(table_of(varying).facts) == [
        "2 clips are used as they are: a varying frame rate without target_fps"
    ]
    assert treatment_lines(table_of(varying, target_fps=16.0).facts) == []


def test_the_keys_of_clips_that_nothing_is_done_to_do_not_move() -> None:
    rows = [clip_of(PLAIN | SD), clip_of(PLAIN | SD | UNTAGGED), clip_of(PLAIN | PQ)]
    before = [name for name in SAMPLE_KEY_COLUMNS if name != "treatment"]
    used, washed = table_of(rows).windows, table_of(rows, hdr="as_is").windows
    assert content_digest(washed, SAMPLE_KEY_COLUMNS) == content_digest(washed, before)
    keys = [[sample_key(row) for row in table.to_pylist()] for table in (used, washed)]
    assert keys[0][:2] == keys[1][:2] and keys[0][2] != keys[1][2]
