"""`--rehash`: local files are digested again, whatever is stored: one may have changed and kept its size and time."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from sana.artifact import Artifact
from sana.context import Context
from sana.data.schemas import CAPTIONS, CLIPS
from sana.data.sources.ingest import IngestTables, ingest
from sana.data.sources.source import open_sources
from sana.data.tables import content_digest, read_table
from sana.model.model_resolver import resolve_model
from sana.store import Store
from sana.wording import first_of

MAX_NAMES = 3


@dataclass(frozen=True)
class Rehashed:
    """What the local data sets hold now, read again; None where all are remote, whose listings have digests."""

    datasets: tuple[str, ...]
    tables: IngestTables | None
    is_model_changed: bool = False  # and where nothing may be written, the plan is still of the old one

    def why_again(self, store: Store, download: Artifact) -> str:
        """Say what changed since a download of the same listing; "" if nothing did.

        Raises:
            SanaError: a table of the download is damaged.
        """
        if self.tables is None:
            return ""
        clips, captions = (read_table(store, download, f"{name}.parquet") for name in ("clips", "captions"))
        here = pc.is_in(clips.column("dataset"), pa.array(self.datasets, pa.string()))
        clips, captions = clips.filter(here), captions.filter(here)  # row beside row
        same_captions = content_digest(captions, CAPTIONS.names) == content_digest(self.tables.captions, CAPTIONS.names)
        if same_captions and content_digest(clips, CLIPS.names) == content_digest(self.tables.clips, CLIPS.names):
            return ""
        now = self.tables.clips
        before = pc.take(clips.column("digest"), pc.index_in(now.column("clip_id"), clips.column("clip_id")))
        paths = now.filter(pc.fill_null(pc.not_equal(now.column("digest"), before), True)).column("path")
        if not len(paths):
            return "rehashed: captions were changed, and their files kept size and time"
        names = first_of(paths.slice(0, MAX_NAMES).to_pylist(), len(paths))
        return f"rehashed: changed, and kept size and time: {names}"


def rehash(context: Context, *, model: bool = True) -> Rehashed:
    """Read all local files of the data sets and, for `model`, of its folder.

    The caches in work_dir have the new digests afterwards, unless the context is read-only.

    Raises:
        SanaError: a source or the model cannot be used.
    """
    config = context.config
    local = tuple(one for one in config.download.enabled if "://" not in one.source)
    tables = None
    if local:
        only = config.model_copy(update={"download": config.download.model_copy(update={"datasets": local})})
        sources = open_sources(only, work_dir=context.work_dir, read_only=context.read_only, rehash=True)
        for source in sources.values():
            source.read_archives(_nobody)
        num_workers = config.download.resources.num_workers
        tables = ingest(local, list(sources.values()), num_workers=num_workers, report=_nobody)
    if not model:
        return Rehashed(tuple(one.id for one in local), tables)
    before, after = (
        resolve_model(config.model, work_dir=context.work_dir, read_only=context.read_only, rehash=again)
        for again in (False, True)
    )
    return Rehashed(tuple(one.id for one in local), tables, before.digests != after.digests)


def _nobody(done: int, total: int) -> None:
    """A report that nobody reads."""
