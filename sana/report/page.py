"""The data report: one HTML page on what became of every file, made from committed artifacts alone.

Equal artifacts and sources give equal bytes, but for the stated time: it opens from a disk, in an artifact viewer, on
paper. What it says and how it looks is in `templates/`.
"""

from collections.abc import Mapping, Sequence
from functools import partial

from sana.artifact import Artifact
from sana.context import Context
from sana.report.buckets import BucketCount, buckets
from sana.report.captions import captions, tokens
from sana.report.charts import Chart, Mark, scatter
from sana.report.clip_losses import ClipLosses, clip_losses
from sana.report.flow import datasets, read_rejects, steps
from sana.report.formatting import number
from sana.report.html import render
from sana.report.states import StageState
from sana.report.storage import storage
from sana.report.thumbnails import MAX_BUCKETS, pictures_of, thumbnails
from sana.report.training.result import result
from sana.report.unused_files import unused_files
from sana.report.videos import Size, videos


def data_report(context: Context, title: str, states: Sequence[StageState], *, now: float) -> str:
    """Make the page of a run, whichever of its stages are committed.

    Args:
        title: the name of the run's config.
        states: all stages in their order.
        now: seconds since 1970, stated on the page.

    Raises:
        SanaError: a table of an artifact is gone or damaged. A source that cannot be read is said on the page.
    """
    store = context.store
    artifacts = {state.name: state.artifact for state in states if state.artifact is not None}
    rejected = read_rejects(store, artifacts)
    probed = videos(store, artifacts["probe"]) if "probe" in artifacts else None
    encoded, texts = artifacts.get("encode_latents"), artifacts.get("encode_captions")
    windows = pictures = None
    if "bucket" in artifacts:
        windows = buckets(store, artifacts["bucket"])
        names = [str(count.bucket) for count in windows.counts[:MAX_BUCKETS]]
        pictures = thumbnails(
            store, context.config, context.work_dir, windows=artifacts["bucket"], encoded=encoded, shapes=names
        )
    return render(
        "data_report.html.j2",
        title=title,
        now=now,
        root=store.root,
        sources=", ".join(part.id for part in context.config.download.enabled[:8]),
        states=states,
        steps=steps(artifacts),
        rejected=rejected,
        datasets=datasets(artifacts, rejected),
        unused=unused_files(store, artifacts["download"]) if "download" in artifacts else None,
        windows=windows,
        pictures=pictures,
        encoded=encoded is not None,
        videos=probed,
        sizes=_sizes(probed.sizes, windows.counts if windows else ()) if probed and probed.sizes else None,
        captions=captions(store, artifacts["download"]) if "download" in artifacts else None,
        tokens=tokens(store, texts) if texts and "download" in artifacts else None,
        storage=storage(store, artifacts),
        clip_losses=_clip_losses(context, artifacts),
        result=result(store, artifacts, states),
    )


def _sizes(found: Sequence[Size], counts: Sequence[BucketCount]) -> Chart:
    """Draw display sizes as discs whose area is the number of clips, and the buckets as outlined squares."""
    shapes = sorted({(count.bucket.width, count.bucket.height) for count in counts})
    return scatter(
        [Mark(one.width, one.height, f"{one.width:.0f} x {one.height:.0f}: {number(one.num_clips)} clips",
              weight=one.num_clips) for one in found],
        [Mark(width, height, f"bucket {width} x {height} (width x height)") for width, height in shapes],
        axes="width x height, pixels",
        about="display sizes of the clips, and the buckets",
    )  # fmt: skip


def _clip_losses(context: Context, artifacts: Mapping[str, Artifact]) -> ClipLosses | None:
    if not {"download", "bucket", "train"} <= artifacts.keys():
        return None
    pictures = partial(pictures_of, context.store, context.config, context.work_dir, artifacts["bucket"])
    return clip_losses(context.store, artifacts["train"], download=artifacts["download"], pictures=pictures)
