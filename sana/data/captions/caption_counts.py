"""Counts of captions: how many a data set has, how many clips draw from several, and what was lost."""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from sana.arrow import value_counts
from sana.data.captions.caption_text import REPLACEMENT
from sana.facts import CaptionCounts


def count_captions(clips: pa.Table, captions: pa.Table, num_dropped: Mapping[str, int]) -> dict[str, CaptionCounts]:
    """Count by data set, from tables CLIPS and CAPTIONS with a row beside a row; `num_dropped` has every data set."""
    totals = {name: [0, 0, 0] for name in num_dropped}
    start = 0
    for batch in captions.select(["captions"]).to_batches(65536):
        texts = batch.column(0)
        of_rows = clips.column("dataset").slice(start, batch.num_rows)
        start += batch.num_rows
        damaged = pc.match_substring(pc.list_flatten(texts), REPLACEMENT)
        of_texts = pa.chunked_array([pc.take(of_rows.combine_chunks(), pc.list_parent_indices(texts))])
        several = of_rows.filter(pc.greater(pc.list_value_length(texts), 1))
        for at, names in enumerate((of_texts, several, of_texts.filter(damaged))):
            for name, num in value_counts(names).items():
                totals[name][at] += num
    return {
        name: CaptionCounts(captions=num, with_alternatives=several, dropped=num_dropped[name], damaged=damaged)
        for name, (num, several, damaged) in totals.items()
    }
