"""The page of a comparison: verdicts, differences with error bars, settings, data, and videos side by side.

It is whole: its videos are in it, as long as they are small enough together; it opens from a disk or a ticket.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sana.comparison.paired import LossDifference
from sana.comparison.record import Comparison, PairComparison, SampleVideo
from sana.comparison.words import difference_rows, side_name, verdict
from sana.report.charts import Chart, Series, lines
from sana.report.html import render
from sana.store import Store
from sana.store_errors import StoreError

MAX_VIDEO_BYTES = 64 * 2**20  # of all videos of a page; a browser holds a third more of it as text


@dataclass(frozen=True)
class ShownVideo:
    """A video of the page: base64 of its mp4; "": `why` it is not in the page."""

    made: SampleVideo
    mp4: str
    why: str = ""


@dataclass(frozen=True)
class ShownPair:
    """One side and its reference: a sentence, how it is coloured, the curve over noise levels, and the table's rows."""

    pair: PairComparison
    said: str
    mood: str  # good, bad or unsure
    chart: Chart
    rows: list[tuple[str, LossDifference]]


def comparison_page(found: Comparison, stores: Mapping[str, Store], *, now: float) -> str:
    """Make the page. `stores` are those that videos are in, by root; `now` is in seconds since 1970.

    A video that cannot be read, or does not fit, is named in its place.
    """
    sides = {side.label: side for side in found.sides}
    pairs = [_shown(pair) for pair in found.pairs]
    left = MAX_VIDEO_BYTES
    rows = []
    for row in found.samples:
        shown = []
        for video in row.videos:
            one, num_bytes = _video(video, stores[sides[video.side].root], left)
            left -= num_bytes
            shown.append(one)
        rows.append((row, shown))
    names = {side.label: side_name(side) for side in found.sides}
    return render("comparison/page.html.j2", found=found, names=names, pairs=pairs, samples=rows, now=now)


def _shown(pair: PairComparison) -> ShownPair:
    loss = pair.losses.eval_loss
    mood = "good" if loss.is_better else "bad" if loss.is_worse else "unsure"
    return ShownPair(pair, verdict(pair), mood, _chart(pair), list(difference_rows(pair)))


def _chart(pair: PairComparison) -> Chart:
    levels = pair.losses.sigmas
    series = [
        Series(
            f"{pair.side} - {pair.reference}",
            [level.sigma for level in levels],
            [level.loss.difference for level in levels],
            [np.nan if level.loss.stderr is None else level.loss.stderr for level in levels],
        ),
        Series("no difference", [0.0, 1.0], [0.0, 0.0], colour="node", faint=True),
    ]
    return lines(series, x_unit="noise level sigma", y_unit="difference of the loss, band: one standard error")


def _video(video: SampleVideo, store: Store, left: int) -> tuple[ShownVideo, int]:
    """Return a video and the bytes that it takes of those that are `left`."""
    try:
        num_bytes = store.size(video.key)
        if num_bytes > left:
            return ShownVideo(video, "", "not in this page, which would be too large"), 0
        return ShownVideo(video, base64.b64encode(store.read(video.key)).decode()), num_bytes
    except (FileNotFoundError, StoreError) as error:
        return ShownVideo(video, "", f"cannot be read: {error}"), 0
