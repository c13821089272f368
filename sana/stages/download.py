"""Download: list the data sets, pair videos with captions, and digest what is there. Sources are only read."""

from collections.abc import Mapping

import pyarrow as pa

from sana.arrow import to_parquet
from sana.artifact import Artifact, Draft, Recipe
from sana.context import Context
from sana.data.captions.caption_counts import count_captions
from sana.data.schemas import CAPTIONS, CLIPS, MASK_FILES, UNUSED_FILES
from sana.data.sources.ingest import STAGE, ingest
from sana.data.sources.source import Source, fetch_summary, sources_of
from sana.data.sources.unused_files import count_by_ending, table_of_unused
from sana.data.tables import content_digest, count_rejects
from sana.facts import DownloadFacts
from sana.progress import Progress

NAME = STAGE
VERSION = 3  # 3: what is no text is no caption, and names are matched after normalising
READS: tuple[str, ...] = ()
GIVES = ("clips", "captions", "mask_files")
UNUSED_FILE = "unused_files.parquet"  # not in artifacts of version 2


def recipe(context: Context, inputs: Mapping[str, Artifact]) -> Recipe:
    """The listing is the input: paths, sizes and what the source itself says of each file's content."""
    return _recipe(context, context.once(sources_of))


def _recipe(context: Context, sources: Mapping[str, Source]) -> Recipe:
    inputs = {f"listing of {name}": source.listing_digest() for name, source in sources.items()}
    return Recipe(NAME, VERSION, context.config.download.hashed(), inputs)


def remaining(context: Context, inputs: Mapping[str, Artifact]) -> tuple[int, int, str]:
    """Return (done, total, unit) of the work at hand."""
    sources = context.once(sources_of)
    unread = {name: len(source.unread_archives()) for name, source in sources.items()}
    videos = sum(source.videos.num_rows for name, source in sources.items() if not unread[name])
    return 0, videos + sum(unread.values()), _unit(videos, sum(unread.values()))


def _unit(num_videos: int, num_archives: int) -> str:
    return "videos" if not num_archives else "videos and archives" if num_videos else "archives"


def run(context: Context, inputs: Mapping[str, Artifact], recipe: Recipe) -> Artifact:
    """Write `clips.parquet`, `captions.parquet`, `rejects.parquet` and `unused_files.parquet`.

    And `masks.parquet` where a data set may have masks.

    Raises:
        ConfigError: a source does not exist, holds no video, or its captions are not where the config says.
    """
    sources = context.once(sources_of)
    draft = Draft(context.store, recipe, forced=bool(context.salt))
    for source in sources.values():
        source.read_archives(
            lambda done, total: context.report(Progress(done, total, "archives", fetch_summary(sources)))
        )
    tables = ingest(
        context.config.download.enabled,
        list(sources.values()),
        num_workers=context.config.download.resources.num_workers,
        report=lambda done, total: context.report(Progress(done, total, "videos", fetch_summary(sources))),
    )
    draft.add("clips.parquet", to_parquet(tables.clips))
    draft.add("captions.parquet", to_parquet(tables.captions))
    draft.add("rejects.parquet", to_parquet(tables.rejects))
    may_have_masks = any(dataset.masks is not None for dataset in context.config.download.enabled)
    if may_have_masks:
        draft.add("masks.parquet", to_parquet(tables.masks))
    unused = [table_of_unused(name, source.unused_files, source.videos) for name, source in sources.items()]
    draft.add(UNUSED_FILE, to_parquet(pa.concat_tables([UNUSED_FILES.empty_table(), *unused])))
    captions = count_captions(tables.clips, tables.captions, tables.num_dropped)
    extra = {
        "with_alternatives": sum(of.with_alternatives for of in captions.values()),
        "captions_dropped": sum(of.dropped for of in captions.values()),
        "masks": sum(source.masks.num_rows for source in sources.values()),
        "unused_files": sum(table.num_rows for table in unused),
    }
    content = {
        "videos": content_digest(tables.clips, CLIPS.names),
        "captions": content_digest(tables.captions, CAPTIONS.names),
    }
    if may_have_masks:
        content["masks"] = content_digest(tables.masks, MASK_FILES.names)
    return draft.commit(
        content=content,
        counts=count_rejects(tables.num_in, tables.clips.num_rows, tables.rejects).with_extra(
            **{name: num for name, num in extra.items() if num}
        ),
        facts=DownloadFacts(
            {name: source.revision for name, source in sources.items()},
            {
                name: count_by_ending(table.column("path"))
                for name, table in zip(sources, unused, strict=True)
                if table.num_rows
            },
            captions,
        ),
    )
