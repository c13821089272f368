"""What a check found, as numbers and texts that a config to begin with takes from it."""

from dataclasses import replace

import pyarrow.compute as pc

from sana.facts import BucketFacts
from sana.pipeline.check import Checked


def num_held_out(checked: Checked) -> tuple[int, int]:
    """Return how many samples are held out, of how many."""
    assert checked.assigned is not None
    buckets = checked.assigned.facts.buckets.values()
    num_eval = sum(of.eval for of in buckets)
    return num_eval, num_eval + sum(of.train for of in buckets)


def of_all(facts: BucketFacts, factor: float) -> BucketFacts:
    """Return the facts as they would be of all clips, where each that was looked at stands for `factor`."""
    if factor <= 1:
        return facts
    buckets = {
        name: replace(of, **{count: round(factor * getattr(of, count)) for count in ("train", "eval", "clips")})
        for name, of in facts.buckets.items()
    }
    return replace(facts, buckets=buckets, sources=round(factor * facts.sources))


def first_caption(checked: Checked) -> str:
    """Return a caption of the first clip by path, of those that are used if any is."""
    assert checked.listed is not None
    clips, captions = checked.listed.clips, checked.listed.captions
    if checked.assigned is not None and checked.assigned.windows.num_rows:
        used = checked.assigned.windows["clip_id"].combine_chunks()
        clips = clips.filter(pc.is_in(clips["clip_id"], value_set=used))
    first = clips["clip_id"][pc.sort_indices(clips["path"])[0].as_py()]
    texts: list[str] = captions["captions"][pc.index(captions["clip_id"], first).as_py()].as_py()
    return texts[0]
