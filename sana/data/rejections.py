"""Too many rejections: what was rejected, of which data set, and which change would help for each reason."""

from collections.abc import Mapping
from math import ceil

import pyarrow as pa
import pyarrow.compute as pc

from sana.arrow import value_counts
from sana.artifact import Artifact
from sana.config.data import DatasetConfig
from sana.config.pipeline import Config
from sana.counts import DatasetCounts, ranked
from sana.data.schemas import Reason
from sana.data.tables import read_table
from sana.errors import RejectedError
from sana.store import Store

_MAX_REASONS = 3  # of a data set, in a message
_MAX_DATASETS = 2
_ROUNDING = 1e-6  # of a number of clips
_BROKEN = "replace or remove these files"
# What helps, by reason. {at}: the data set's key in the config; {bucket}: the section with its bucket rules.
REMEDIES: Mapping[str, str] = {
    Reason.NO_CAPTION: "write their captions, set {at}.captions.missing: fallback, or another captions.layout",
    Reason.MISSING: "correct these names in the table or list, or name its column: {at}.captions.video_column",
    Reason.BAD_ROW: "mend these rows of the table",
    Reason.OUTSIDE: "put the videos below the table's folder, or copy the table to theirs",
    Reason.EMPTY: _BROKEN,
    Reason.UNREADABLE: _BROKEN,
    Reason.NO_VIDEO: _BROKEN,
    Reason.TRUNCATED: _BROKEN,
    Reason.TOO_SHORT: "lower {bucket}.num_frames (or buckets, min_frames), or use longer clips",
    Reason.TOO_LONG: "set {bucket}.too_long: trim, or raise max_frames",
    Reason.TOO_SMALL: "set {bucket}.allow_upscale: true, or smaller buckets (or minimum_image_size)",
    Reason.ASPECT: "raise {bucket}.max_aspect_ratio, or crop them",
    Reason.HDR: "set {bucket}.hdr: tonemap, or as_is",
    Reason.INTERLACED: "set {bucket}.interlaced: deinterlace, or as_is for a codec that cannot be, or convert them",
    Reason.COLOR: "convert them to a usual matrix and usual primaries, such as those of HD video",
    Reason.DUPLICATE: "keep all copies by probe.duplicates: keep, or remove them from the data set",
    Reason.NO_MASK: "make their masks, or set {at}.masks.missing: whole",
    Reason.MASK_SIZE: "make masks of the clips' own aspect ratio",
    Reason.MASK_LENGTH: "make masks with as many frames as their clips, or a still picture",
    Reason.MASK_EMPTY: "set {at}.masks.empty: keep, or {at}.masks.inverted if black is where the loss should look",
    Reason.KILLED_WORKER: "remove these files; --force of the stage tries them again",
    "caption_too_short": "lower filter_captions.min_words, or write longer captions",
    "caption_too_long": "raise filter_captions.max_words, or write shorter captions",
}


def remedy(config: Config, dataset: str, reason: str) -> str:
    """Return which change would help against a reason in a data set; of a reason unknown here, where to look."""
    found = next((one for one in config.download.datasets if one.id == dataset), None)
    at = f"download.datasets.{dataset}"
    own = found is not None and found.bucket is not None
    text = REMEDIES.get(reason, "change these files, or the settings of the stage")
    return text.format(at=at, bucket=f"{at}.bucket" if own else "bucket")


def check_rejects(config: Config, artifact: Artifact, store: Store) -> None:
    """Fail if a committed stage rejected more clips than its data sets allow, or left no clip.

    Raises:
        RejectedError: names each such data set, its numbers, its top reasons with what would help, and the table.
        SanaError: that table cannot be read.
    """
    counts = artifact.counts
    limits = {dataset.id: dataset for dataset in config.download.datasets}
    above = [name for name, of in counts.datasets.items() if is_too_many(of, _limit(limits.get(name)))]
    if counts.num_out == 0 and counts.datasets:
        above = [name for name, of in counts.datasets.items() if of.num_rejected]
        first = [f"{artifact.stage}: no clip is left of {counts.num_in}"]
    elif above:
        first = [f"{artifact.stage}: too many clips were rejected"] if len(above) > 1 else []
    else:
        return
    rejects = read_table(store, artifact, "rejects.parquet")
    lines = [line for name in above[:_MAX_DATASETS] for line in _told(config, artifact, rejects, name)]
    if not first:
        lines[0] = f"{artifact.stage}: {lines[0]}"
    if len(above) > _MAX_DATASETS:
        lines.append(f"and {len(above) - _MAX_DATASETS} more data sets: {', '.join(above[_MAX_DATASETS:][:8])}")
    where = store.uri(artifact.files["rejects.parquet"].key)
    raise RejectedError("\n  ".join([*first, *lines, f"every rejection is listed in {where}"]))


def is_too_many(of: DatasetCounts, limit: float) -> bool:
    """Whether more clips were rejected than a `max_rejected_fraction` allows."""
    return of.num_rejected > limit * of.num_in + _ROUNDING  # 0.29 of 100 is 29, and 28.999999999999996 in floats


def fraction_of(of: DatasetCounts) -> float:
    """Return the smallest `max_rejected_fraction`, in hundredths, that allows what was rejected."""
    return ceil(100 * of.num_rejected / of.num_in - _ROUNDING) / 100


def _limit(dataset: DatasetConfig | None) -> float:
    return 1.0 if dataset is None else dataset.max_rejected_fraction


def _told(config: Config, artifact: Artifact, rejects: pa.Table, name: str) -> list[str]:
    """Return the lines on one data set: its counts, and each of its top reasons with the remedy."""
    mine = rejects.filter(pc.equal(rejects["dataset"], name))
    of = artifact.counts.datasets[name]
    reasons = ranked(value_counts(mine["reason"]))[:_MAX_REASONS]
    limit = next((_limit(one) for one in config.download.datasets if one.id == name), 1.0)
    top = ", ".join(f"{num} {reason}" for reason, num in reasons)
    if of.num_rejected == of.num_in:
        more = "none is left"
    else:
        needed = fraction_of(of)
        more = (
            f"more than max_rejected_fraction {limit:g} allows (to go on without them: "
            f"-s download.datasets.{name}.max_rejected_fraction={needed:g})"
        )
    lines = [f"download.datasets[{name}]: {of.num_rejected} of {of.num_in} clips were rejected ({top}); {more}"]
    for reason, _ in reasons:
        row = _example(mine.filter(pc.equal(mine["reason"], reason)), reason)
        shown = f"{row['path']}: {row['detail']}" if row["detail"] else row["path"]
        lines.append(f"  {reason}, such as {shown}: {remedy(config, name, reason)}")
    return lines


def _example(rows: pa.Table, reason: str) -> Mapping[str, str]:
    """Return the first row or, of clips that are too short, the longest: it says how much too short they are."""
    at = 0
    if reason == Reason.TOO_SHORT:
        found = pc.struct_field(pc.extract_regex(rows["detail"], r"^(?P<frames>[0-9]{1,9}) "), "frames")
        frames = pc.fill_null(pc.cast(found, pa.int64()), -1)
        at = pc.index(frames, pc.max(frames)).as_py()
    first: Mapping[str, str] = rows.slice(at, 1).to_pylist()[0]
    return first
