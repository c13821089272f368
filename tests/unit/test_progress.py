"""Progress of several workers as one."""

import re

from sana.progress import REJECTED, Progress, Summed


def test_workers_add_up_to_one_bar_with_rate_and_rejections() -> None:
    heard: list[Progress] = []
    summed = Summed(heard.append, {"81x480x832": 7, "17x96x160": 4})
    before = {"17x96x160": 2}  # done by a worker before these
    summed(Progress(2, 11, "samples", worker=0, counts=before))
    summed(Progress(0, 11, "samples", worker=1))
    summed(Progress(3, 11, "samples", "81x480x832", worker=0, counts={**before, "81x480x832": 1, REJECTED: 1}))
    summed(Progress(2, 11, "samples", "81x480x832", worker=1, counts={"81x480x832": 2, REJECTED: 1}))
    assert [(one.done, one.total, one.unit) for one in heard] == [(n, 11, "samples") for n in (2, 2, 3, 5)]
    assert re.fullmatch(r"81x480x832 3/7, [\d.e+]+ clips/s, \d+:\d\d:\d\d left, 2 rejected", heard[-1].detail)
    summed(Progress(9, 11, "samples", "81x480x832", worker=1, counts={"81x480x832": 9}))  # some did the same part
    assert heard[-1].done == 11 and heard[-1].detail.startswith("81x480x832 7/7")
    assert heard[0].detail == heard[1].detail == ""
