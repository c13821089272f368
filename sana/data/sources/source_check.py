"""The check of a config's data sets before a run. No video is opened."""

from collections.abc import Mapping
from pathlib import Path

from sana.config.data import DatasetConfig
from sana.config.pipeline import Config
from sana.data.archives.choice import too_large_note, unread_note
from sana.data.captions.captions import check_captions
from sana.data.sources.file_cache import FileCache
from sana.data.sources.ingest import check_pattern
from sana.data.sources.outputs import Outputs
from sana.data.sources.source import Source, open_source
from sana.data.sources.unused_files import notes_of, table_of_unused
from sana.errors import SanaError

READ_AT_ONCE_BYTES = 2**30  # of local archives: they are read in seconds, and the check sees what is in them


def unused_notes(dataset: DatasetConfig, source: Source) -> list[str]:
    """Say which files of a data set nothing reads, and what would make them read; a line each."""
    unused = table_of_unused(dataset.id, source.unused_files, source.videos)
    return notes_of(
        unused,
        layout=source.layout,
        is_auto=dataset.captions.layout == "auto",
        videos=source.videos,
        caption_files=source.caption_files,
    )


def check_sources(
    config: Config,
    *,
    work_dir: Path,
    read_only: bool = False,
    opened: Mapping[str, Source] | None = None,
    tell_unread: bool = True,
) -> tuple[list[SanaError], list[str]]:
    """List every source, read the heads of local caption tables, and count the lines of local paired text files.

    Sources that are `opened` already, by id, are not listed again. `tell_unread`: say what only a run would read.

    Returns (at most one error per data set; notes: what was not read, and files that nothing reads).
    """
    problems: list[SanaError] = []
    notes = []
    # a table in S3 that is the source is its listing: it is fetched, not kept
    cache = FileCache(work_dir / "cache" / "videos", max_bytes=1)
    outputs = Outputs.of(config, work_dir)
    for dataset in config.download.enabled:
        try:
            source = (opened or {}).get(dataset.id) or open_source(
                config.resolved(dataset), work_dir=work_dir, cache=cache, read_only=read_only, outputs=outputs
            )
            unread = source.unread_archives()
            if unread and (not source.is_local or sum(file.num_bytes for file in unread) > READ_AT_ONCE_BYTES):
                notes += [f"{dataset.where}: {note}" for note in source.archive_notes()]
                if tell_unread:
                    notes.append(f"{dataset.where}: {unread_note(unread, is_local=source.is_local)}")
                if not source.is_local:
                    large = too_large_note(unread, int(config.download.resources.cache_gib * 2**30))
                    notes += [f"{dataset.where}: {large}"] if large else []
                continue
            check_pattern(dataset, source)
            if source.is_local:
                notes += [f"{dataset.where}: {note}" for note in check_captions(dataset, source)]
            elif source.layout in ("metadata", "lines", "mixed") and not source.is_table:  # one that is, listing reads
                names = ", ".join(source.caption_files.column("path").slice(0, 3).to_pylist())
                if tell_unread:
                    notes.append(f"{dataset.where}: {names} is not read before a run, because it is remote")
            notes += [f"{dataset.where}: {note}" for note in unused_notes(dataset, source)]
            notes += [f"{dataset.where}: {note}" for note in source.archive_notes()]
        except SanaError as error:
            problems.append(error)
    return problems, notes
