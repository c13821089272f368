"""A comparison in words: the verdict of a pair, and the rows of its table, the same in a terminal and on a page."""

from collections.abc import Iterator
from pathlib import PurePath

from sana.comparison.paired import LossDifference
from sana.comparison.record import PairComparison, Side
from sana.wording import counted

VERDICTS = {
    "better": "better than",
    "worse": "worse than",
    "same": "the same as",
    "unsure": "not surely better or worse than",
}

_SHORT = 8  # characters of a fingerprint that people tell it by


def training_name(title: str, key: str) -> str:
    """Name a training for people: its config's title, where one is known, and a short fingerprint or trajectory."""
    return f"{title} {key[:_SHORT]}".strip()


def side_name(side: Side) -> str:
    """Name a side for people: `demo 3fa9c1d2`, of a checkpoint `demo 3fa9c1d2@60`, of an exported model its folder."""
    key = side.train or side.trajectory
    if not key:
        return side.name
    asked = side.name.partition("@")[0]
    known = side.title or ("" if key.startswith(asked) else PurePath(asked).stem)
    at = "" if side.train or side.step is None else f"@{side.step}"
    return f"{training_name(known, key)}{at}"


def verdict(pair: PairComparison) -> str:
    """Say in a sentence which is better, by how much and how sure."""
    loss, common = pair.losses.eval_loss, pair.losses.common
    said = f"{pair.side} is {VERDICTS[loss.verdict]} {pair.reference}: its eval loss is {difference(loss)}"
    if loss.stderr is None:
        said += ", of one sample, which has no standard error"
    elif loss.stderr > 0:
        said += f", {abs(loss.difference) / loss.stderr:.1f} standard errors"
    on = (
        f"on all {counted(common.samples, 'sample')}"
        if common.is_all
        else f"on the {counted(common.samples, 'sample')} that both have, of {common.samples_of_reference} of "
        f"{pair.reference} and {common.samples_of_side} of {pair.side}"
    )
    if common.changed:
        on += f" ({common.changed} more were changed in between)"
    if common.sigmas != common.sigmas_of_side or common.sigmas != common.sigmas_of_reference:
        on += f", at {common.sigmas} of {common.sigmas_of_reference} and {common.sigmas_of_side} noise levels"
    return f"{said}; {on}"


def difference(loss: LossDifference) -> str:
    """Write a difference and its standard error: `-0.0123 +- 0.0010`."""
    error = "" if loss.stderr is None else f" \u00b1 {loss.stderr:.4f}"
    return f"{loss.difference:+.4f}{error}"


def difference_rows(pair: PairComparison) -> Iterator[tuple[str, LossDifference]]:
    """Yield the rows of a pair's table: what each is over, and the difference."""
    losses = pair.losses
    yield "eval loss", losses.eval_loss
    for level in losses.sigmas:
        yield f"sigma {level.sigma:.4g}", level.loss
    groups = (
        ("bucket", losses.buckets),
        ("data set", losses.datasets if len(losses.datasets) > 1 else {}),
        ("by itself:", losses.separate),
        ("with", losses.conditions),
    )
    for what, found in groups:
        for name, loss in found.items():
            yield f"{what} {name}", loss
