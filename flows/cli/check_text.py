"""The text of `sana check`: data sets, buckets and the split."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from flows.cli.tables import render_table
from sana.arrow import value_counts
from sana.bucket import Bucket
from sana.config.data import DatasetConfig
from sana.config.pipeline import Config
from sana.facts import BucketFacts
from sana.pipeline.check import Checked, rejected_rows
from sana.pipeline.remedies import facts_of, remedy

MAX_NAMES = 5  # of each reason
HDR = {"smpte2084": "PQ", "arib-std-b67": "HLG"}
INTERLACED = ("tt", "bb", "tb", "bt")


def lines_of(checked: Checked) -> Iterator[str]:
    """Yield all that was found, but for warnings and what would stop a run."""
    if checked.assigned is not None:
        for dataset in checked.config.download.datasets:
            yield from _dataset(checked, dataset)
    for note in checked.notes:
        yield f"note: {note}"
    if checked.assigned is not None and checked.assigned.facts.buckets:
        yield ""
        yield from _buckets(checked.config, checked.assigned.facts)
        yield from _split(checked)


def _dataset(checked: Checked, dataset: DatasetConfig) -> Iterator[str]:
    assert checked.clips is not None and checked.captions is not None and checked.probed is not None
    assert checked.rejects is not None and checked.assigned is not None and checked.layouts is not None
    mine = pc.equal(checked.rejects["dataset"], dataset.id)
    reasons = sorted(value_counts(checked.rejects["reason"].filter(mine)).items(), key=lambda item: (-item[1], item[0]))
    found = checked.counts["download"].datasets[dataset.id].num_in
    rejected = sum(num for _, num in reasons)
    layout = checked.layouts[dataset.id]
    yield (
        f"{dataset.id}: {dataset.source}: {_num(found, 'clip')}, {found - rejected} good, {rejected} rejected; "
        f"captions: {layout}"
    )
    for reason, num in reasons:
        rows = rejected_rows(checked, dataset.id, reason)
        help_ = remedy(dataset, checked.config.rules_of(dataset), rows, facts_of(rows, checked.probed))
        yield f"  {reason} {num}: {_names(rows)}"
        if help_:
            yield f"    {help_}"
    at = pc.equal(checked.clips["dataset"], dataset.id)
    yield from _captions(checked.captions.filter(at))
    yield from _videos(checked.probed.filter(pc.equal(checked.probed["dataset"], dataset.id)))


def _num(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _names(rows: pa.Table) -> str:
    """Return the first names, each with what was found."""
    rows = rows.sort_by("path")
    names = []
    for row in rows.slice(0, MAX_NAMES).to_pylist():
        found = row["detail"].removeprefix(f"{row['path']}: ").partition(";")[0]
        names.append(f"{row['path']} ({found})" if found else row["path"])
    more = rows.num_rows - MAX_NAMES
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")


def _captions(captions: pa.Table) -> Iterator[str]:
    if not captions.num_rows:
        return
    lengths = pc.list_value_length(captions["captions"])
    several = lengths.filter(pc.greater(lengths, 1))
    if not len(several):
        yield f"  captions: one each of {_num(len(lengths), 'clip')}"
        return
    least, most = pc.min_max(several).values()
    span = f"{least}" if least == most else f"{least} to {most}"
    yield (
        f"  captions: {len(several)} of {_num(len(lengths), 'clip')} have {span} alternatives, of which each step "
        "draws one"
    )


def _videos(probed: pa.Table) -> Iterator[str]:
    """Say what the good videos are, and what of them is treated."""
    if not probed.num_rows:
        return
    area = pc.multiply(probed["width"], probed["height"])
    order = pc.sort_indices(area)
    small, large = (
        f"{probed['width'][at].as_py()}x{probed['height'][at].as_py()}" for at in (order[0].as_py(), order[-1].as_py())
    )
    frames, fps = (pc.min_max(probed[name]) for name in ("num_frames", "fps"))
    yield (
        f"  videos: {small if small == large else f'{small} to {large}'} pixels, "
        f"{_span(frames, '{}')} frames, {_span(fps, '{:.4g}')} frames/s"
    )
    kinds = [
        _num(num, f"{HDR[name]} (HDR) video")
        for name, num in value_counts(probed["color_transfer"]).items()
        if name in HDR
    ]
    interlaced = pc.sum(pc.is_in(probed["field_order"], value_set=pa.array(INTERLACED))).as_py()
    if interlaced:
        kinds.append(_num(interlaced, "interlaced video"))
    if kinds:
        yield f"  of these: {', '.join(kinds)}"


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
        what = f"{name} has {small.train} train samples, fewer than {config.bucket.min_bucket_samples}"
        if small.draws_per_epoch is not None:
            yield f"{what}: they are drawn {small.draws_per_epoch} times in an epoch"
        for target, num in small.moved.items():
            yield f"{what}: {num} of its clips go to {target}"
        if small.stayed:
            yield f"{what}: {small.stayed} of its clips stay, no other bucket takes them"
    batch = config.train.global_batch_size
    for name, of in facts.buckets.items():
        if 0 < of.train < batch:
            yield f"{name} has {of.train} train samples for a batch of {batch}: it is filled up by repeats"


def _split(checked: Checked) -> Iterator[str]:
    assert checked.assigned is not None
    windows = checked.assigned.windows.select(["split", "clip_id", "source_id"])
    said = []
    for split in ("train", "eval"):
        mine = windows.filter(pc.equal(windows["split"], split))
        clips, sources = (pc.count_distinct(mine[name]).as_py() for name in ("clip_id", "source_id"))
        said.append(f"{split} {_num(mine.num_rows, 'sample')} of {_num(clips, 'clip')} from {_num(sources, 'source')}")
    yield f"split: {', '.join(said)}"
