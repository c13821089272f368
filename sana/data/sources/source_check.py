"""What can be found wrong with the data sets of a config before anything runs: no video is opened."""

from collections.abc import Mapping
from pathlib import Path

from sana.config.pipeline import Config
from sana.data.captions.captions import check_captions
from sana.data.sources.file_cache import FileCache
from sana.data.sources.ingest import check_pattern
from sana.data.sources.source import Source, open_source
from sana.errors import SanaError


def check_sources(
    config: Config, *, work_dir: Path, read_only: bool = False, opened: Mapping[str, Source] | None = None
) -> tuple[list[SanaError], list[str]]:
    """List every source, read the heads of local tables of captions, and count the lines of local lists.

    Sources that are `opened` already, by id, are not listed again.

    Returns (what is wrong, at most one error of each data set; what was not read, a line each).
    """
    problems: list[SanaError] = []
    notes = []
    cache = FileCache(work_dir / "cache" / "videos", max_bytes=1)  # tables in S3 pass through: they are listings
    for dataset in config.download.enabled:
        try:
            source = (opened or {}).get(dataset.id) or open_source(
                dataset, work_dir=work_dir, cache=cache, read_only=read_only
            )
            check_pattern(dataset, source)
            if source.is_local:
                check_captions(dataset, source)
            elif source.layout in ("metadata", "lines") and not source.is_table:  # the listing has read such a table
                names = source.caption_files.column("path").slice(0, 3).to_pylist()
                notes.append(f"{dataset.where}: {', '.join(names)} is not read before a run, because it is remote")
        except SanaError as error:
            problems.append(error)
    return problems, notes
