"""Fewer points that look the same: what a screen cannot show apart is left out, extremes and gaps are not."""

import numpy as np
from numpy.typing import NDArray

from sana.report.drawing.axes import Floats


def thinned(x: Floats, y: Floats, *, columns: int) -> list[NDArray[np.int64]]:
    """Return the indices of curves without a gap, of at most 4 points in each of `columns` equal parts of x.

    Of each part the first, last, lowest and highest point are kept, so the picture has the extent of the whole. `x` is
    finite and in order; where `y` is not finite there is a gap: no line joins what is before it with what is after.
    """
    finite = np.flatnonzero(np.isfinite(y))
    if not finite.size:
        return []
    kept = finite
    if finite.size > 4 * columns:
        span = x[-1] - x[0]
        part = np.minimum(((x[finite] - x[0]) / (span or 1.0) * columns).astype(np.int64), columns - 1)
        order = np.lexsort((y[finite], part))
        starts = np.flatnonzero(np.diff(part, prepend=-1))
        ends = np.append(starts[1:], finite.size) - 1
        # sorted by part, then by y: the first of each part is its lowest, the last its highest
        kept = np.unique(finite[np.concatenate([starts, ends, order[starts], order[ends]])])
    gaps = np.cumsum(~np.isfinite(y))
    breaks = np.flatnonzero(np.diff(gaps[kept])) + 1
    return [np.asarray(piece, np.int64) for piece in np.split(kept, breaks)]
