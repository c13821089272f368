"""The text of `sana check`: data sets, buckets and the split."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from flows.display.tables import render_table
from sana.arrow import value_counts
from sana.bucket import Bucket
from sana.config.data import DatasetConfig
from sana.config.pipeline import Config
from sana.counts import ranked
from sana.data.bucketing.treatments import treatment_lines
from sana.facts import BucketFacts
from sana.pipeline.check import Checked
from sana.pipeline.remedies import facts_of, remedy
from sana.stages import bucket
from sana.wording import counted, first_of

MAX_NAMES = 5  # of each reason


def lines_of(checked: Checked) -> Iterator[str]:
    """Yield all that was found, but for warnings and what would stop a run."""
    yield from lines_of_source(checked)
    yield from lines_of_buckets(checked)


def lines_of_source(checked: Checked) -> Iterator[str]:
    """Yield what was found in the data sets, and notes; no buckets."""
    if checked.assigned is not None:
        for dataset in checked.config.download.datasets:
            yield from _dataset(checked, dataset)
    for note in checked.notes:
        yield f"note: {note}"


def lines_of_buckets(checked: Checked) -> Iterator[str]:
    """Yield the table of buckets and the split, where there are samples."""
    if checked.assigned is not None and checked.assigned.facts.buckets:
        yield ""
        yield from _buckets(checked.config, checked.assigned.facts)
        yield from treatment_lines(checked.assigned.facts)
        yield from _split(checked)


def summary(checked: Checked) -> str:
    """Return how many clips are used, and why the others are not."""
    if checked.assigned is None or checked.listed is None:
        return "no data set can be read"
    found = sum(of.num_in for of in checked.listed.counts["download"].datasets.values())
    reasons = ranked(value_counts(checked.rejects["reason"]))
    why = f" (rejected: {', '.join(f'{num} {reason}' for reason, num in reasons)})" if reasons else ""
    return f"{checked.assigned.counts.num_out} of {found} clips are used{why}"


def _dataset(checked: Checked, dataset: DatasetConfig) -> Iterator[str]:
    listed = checked.listed
    assert listed is not None
    rejects = checked.rejects.filter(pc.equal(checked.rejects["dataset"], dataset.id))
    reasons = ranked(value_counts(rejects["reason"]))
    found = listed.counts["download"].datasets[dataset.id].num_in
    of_all = checked.num_videos.get(dataset.id, 0)
    looked_at = f"{found} of {of_all:,} clips looked at" if of_all > found else counted(found, "clip")
    yield (
        f"{dataset.id}: {looked_at} in {dataset.source}, {found - rejects.num_rows} used, "
        f"{rejects.num_rows} rejected; captions.layout: {listed.layouts[dataset.id]}"
    )
    for reason, num in reasons:
        rows = rejects.filter(pc.equal(rejects["reason"], reason))
        help_ = remedy(checked.config, dataset, rows, facts_of(rows, listed.probed))
        yield f"  {reason} {num}: {first_of(names_of(rows), rows.num_rows)}"
        if help_:
            yield f"    {help_}"
    yield from _captions(listed.captions.filter(pc.equal(listed.clips["dataset"], dataset.id)))
    yield from _videos(listed.probed.filter(pc.equal(listed.probed["dataset"], dataset.id)))


def names_of(rows: pa.Table) -> list[str]:
    """Return the first names of REJECTS, each with what was found."""
    rows = rows.sort_by("path")
    names = []
    for row in rows.slice(0, MAX_NAMES).to_pylist():
        found = row["detail"].removeprefix(f"{row['path']}: ")
        if row["stage"] == bucket.NAME:
            found = found.partition(";")[0]  # the limit that follows is in the remedy
        names.append(f"{row['path']} ({found})" if found else row["path"])
    return names


def _captions(captions: pa.Table) -> Iterator[str]:
    if not captions.num_rows:
        return
    lengths = pc.list_value_length(captions["captions"])
    several = lengths.filter(pc.greater(lengths, 1))
    if not len(several):
        yield f"  captions: one each of {counted(len(lengths), 'clip')}"
        return
    least, most = pc.min_max(several).values()
    span = f"{least}" if least == most else f"{least} to {most}"
    yield (
        f"  captions: {len(several)} of {counted(len(lengths), 'clip')} have {span} alternatives, of which each step "
        "draws one"
    )


def _videos(probed: pa.Table) -> Iterator[str]:
    """Say what the good videos are."""
    if not probed.num_rows:
        return
    area = pc.multiply(probed["width"], probed["height"])
    order = pc.sort_indices(area)
    small, large = (
        f"{probed['width'][at].as_py()}x{probed['height'][at].as_py()}" for at in (order[0].as_py(), order[-1].as_py())
    )
    frames, moving = pc.min_max(probed["num_frames"]), probed["fps"].filter(pc.greater(probed["fps"], 0))
    rate = f"{_span(pc.min_max(moving), '{:.4g}')} frames/s" if len(moving) else "all still"
    yield (
        f"  videos: {small if small == large else f'{small} to {large}'} pixels, {_span(frames, '{}')} frames, {rate}"
    )


def _span(found: pa.StructScalar, form: str) -> str:
    least, most = (form.format(found[name].as_py()) for name in ("min", "max"))
    return least if least == most else f"{least} to {most}"


def _buckets(config: Config, facts: BucketFacts) -> Iterator[str]:
    dtype = config.encode_latents.dtype
    rows = [
        (name, str(of.train), str(of.eval), str(of.clips), f"{of.crop_loss:.1%}", f"{of.upscaled:.1%}",
         str(Bucket.parse(name).num_tokens),
         f"{of.num_samples * Bucket.parse(name).latent_bytes(dtype) / 2**20:.1f}")
        for name, of in facts.buckets.items()
    ]  # fmt: skip
    titles = ("bucket", "train", "eval", "clips", "cropped", "upscaled", "tokens", f"latents MiB ({dtype})")
    yield render_table(titles, rows)
    used = facts.frames_used / facts.frames if facts.frames else 0.0
    yield (
        f"frames of used clips: {facts.frames}, in a sample {facts.frames_used} ({used:.1%}), "
        f"dropped {facts.frames_dropped}"
    )
    for name, small in facts.small_buckets.items():
        what = f"{name} has {counted(small.train, 'train sample')}, fewer than {config.bucket.min_bucket_samples}"
        if small.draws_per_epoch is not None:
            yield f"{what}: they are drawn {small.draws_per_epoch} times in an epoch"
        for target, num in small.moved.items():
            yield f"{what}: {num} of its clips go to {target}"
        if small.stayed:
            yield f"{what}: {small.stayed} of its clips stay, no other bucket takes them"
    batch = config.train.global_batch_size
    for name, of in facts.buckets.items():
        if 0 < of.train < batch:
            yield f"{name} has {counted(of.train, 'train sample')} for a batch of {batch}: it is filled up by repeats"


def _split(checked: Checked) -> Iterator[str]:
    assert checked.assigned is not None
    windows = checked.assigned.windows.select(["split", "clip_id", "source_id"])
    said = []
    for split in ("train", "eval"):
        mine = windows.filter(pc.equal(windows["split"], split))
        clips, sources = (pc.count_distinct(mine[name]).as_py() for name in ("clip_id", "source_id"))
        said.append(
            f"{split} {counted(mine.num_rows, 'sample')} of {counted(clips, 'clip')} from {counted(sources, 'source')}"
        )
    yield f"split: {', '.join(said)}"
