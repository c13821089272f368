"""Files of a data set that nothing reads: no videos, and no captions of one. They are counted, so that none vanishes.

files that are not hidden = videos (clips and rejects) + files that hold captions + unused files
"""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from sana.arrow import one_chunk, value_counts
from sana.counts import ranked
from sana.data.schemas import UNUSED_FILES
from sana.data.sources.listing import METADATA_TABLE, TABLE_SUFFIXES, TEXT_FILE, is_picture_path, stems, videos_of
from sana.wording import first_of

MAX_ENDINGS = 20  # that are counted one by one; those of the others are counted together
NO_ENDING, OTHER_ENDINGS = "without an ending", "of other endings"
MAX_NAMES = 3  # that a note names
TEXT, TABLE, OTHER = "text", "table", "other"

_ROWS_AT_ONCE = 65536
_READABLE_TABLE = r"(?i)\.(" + "|".join(suffix[1:] for suffix in TABLE_SUFFIXES) + r")\z"
_UNFINISHED = r"(?i)\.(part|partial|crdownload|incomplete|download|aria2|ytdl|!qb|!ut|icloud)\z"
_BESIDE = r"(?i)\.(json|captions?|cap|text|md|srt|vtt|ya?ml|xml)\z"  # how others name the texts of a video
_PACKED = r"(?i)\.(rar|7z|bz2|xz|zst|lz4|gz|0\d\d|z\d\d)\z"
_OTHER_TABLE = r"(?i)\.(tsv|tab|ndjson|json|arrow|feather|xlsx?|ods)\z"


def unused_of(listed: pa.Table, caption_files: pa.Table, *, images: bool = False) -> pa.Table:
    """Return the rows of a table LISTED that are no videos (with `images`, no pictures) and not in `caption_files`."""
    videos = videos_of(listed, images=images)
    if listed.num_rows == videos.num_rows + caption_files.num_rows:
        return listed.slice(0, 0)
    used = pa.concat_arrays([one_chunk(some.column("path")) for some in (videos, caption_files)])
    return listed.filter(pc.invert(pc.is_in(listed.column("path"), used))).combine_chunks()


def table_of_unused(dataset: str, unused: pa.Table, videos: pa.Table) -> pa.Table:
    """Return the table UNUSED_FILES of a data set's unused files and its videos, both tables LISTED."""
    batches = []
    kinds = _kinds(unused, videos)
    for start in range(0, unused.num_rows, _ROWS_AT_ONCE):  # a chunk each: ordinary strings end at 2 GiB a chunk
        some = unused.slice(start, _ROWS_AT_ONCE).combine_chunks()
        columns = [
            pa.repeat(pa.scalar(dataset), some.num_rows),
            one_chunk(some.column("path")).cast(pa.string()),
            one_chunk(some.column("num_bytes")),
            kinds.slice(start, _ROWS_AT_ONCE),
        ]
        batches.append(pa.RecordBatch.from_arrays(columns, schema=UNUSED_FILES))
    return pa.Table.from_batches(batches, UNUSED_FILES)


def _kinds(unused: pa.Table, videos: pa.Table) -> pa.Array:
    paths = unused.column("path")
    beside_a_video = pc.is_in(stems(unused), one_chunk(stems(videos)))  # x.json of x.mp4 is no table of captions
    is_table = pc.or_(
        pc.match_substring_regex(paths, _READABLE_TABLE),
        pc.and_(pc.match_substring_regex(paths, _OTHER_TABLE), pc.invert(beside_a_video)),
    )
    kinds = pc.if_else(pc.match_substring_regex(paths, TEXT_FILE), TEXT, pc.if_else(is_table, TABLE, OTHER))
    return one_chunk(kinds).cast(pa.string())


def count_by_ending(paths: pa.ChunkedArray) -> dict[str, int]:
    """Count paths by their ending in lower case, the most frequent first, at most MAX_ENDINGS and a sum of the rest."""
    endings = pc.utf8_lower(pc.replace_substring_regex(paths, r"(?s)\A.*?(\.[^./]+)?\z", r"\1"))
    counted = {ending or NO_ENDING: num for ending, num in value_counts(endings).items()}
    most = ranked(counted)
    rest = sum(num for _, num in most[MAX_ENDINGS:])
    return dict(most[:MAX_ENDINGS]) | ({OTHER_ENDINGS: rest} if rest else {})


def describe(counts: Mapping[str, int]) -> str:
    """Say how many files are not read, as `3 files are not read: 2 .webp, 1 .json`; "" if there is none."""
    total = sum(counts.values())
    if not total:
        return ""
    files = "1 file is" if total == 1 else f"{total} files are"
    return f"{files} not read: {', '.join(f'{num} {ending}' for ending, num in counts.items())}"


def notes_of(unused: pa.Table, *, layout: str, is_auto: bool, videos: pa.Table, caption_files: pa.Table) -> list[str]:
    """Say what is not read of a data set, and what would make it read: one line each, of its table UNUSED_FILES.

    `is_auto`: the layout was found, not set. `videos` and `caption_files` are tables LISTED.
    """
    if not unused.num_rows:
        return []
    found = [describe(count_by_ending(unused.column("path")))]
    texts = unused.filter(pc.equal(unused.column("kind"), TEXT)).column("path")
    tables = unused.filter(pc.equal(unused.column("kind"), TABLE)).column("path")
    paths = unused.column("path")
    if len(unfinished := paths.filter(pc.match_substring_regex(paths, _UNFINISHED))):
        found.append(f"{_some(unfinished)}: not here as a whole; let the download end, or fetch the file")
    if note := unpack_note(paths):
        found.append(note)
    if len(pictures := paths.filter(is_picture_path(paths))):
        found.append(
            f"{_some(pictures)}: still pictures are clips of one frame where the data set has images: read, and a "
            "bucket of one frame"
        )
    if layout == "textfile" and len(beside := _in_place_of_texts(unused, videos, caption_files)):
        found.append(f"{_some(beside)}: the text of clip.mp4 is read from clip.txt alone, or from a table")
    if len(texts) and layout == "textfile":
        found.append(f"{_some(texts)}: no video has this name. The text of clip.mp4 is clip.txt, in the same folder")
    if len(texts) and layout in ("metadata", "lines"):
        used = _some(caption_files.column("path"))
        found.append(
            f"{_some(texts)}: captions are read from {used} alone. For texts beside the videos set captions.layout: "
            "textfile"
        )
    if len(texts) and layout == "mixed":
        found.append(f"{_some(texts)}: no video has this name, or it lies below a table, which speaks for its folder")
    if len(tables) and layout in ("textfile", "mixed"):
        is_stray = pc.match_substring_regex(tables, METADATA_TABLE)
        stray, tables = tables.filter(is_stray), tables.filter(pc.invert(is_stray))
        if len(stray) and not is_auto:
            found.append(f"{_some(stray)}: captions.layout is textfile, so texts alone are read")
        elif len(stray):
            found.append(
                f"{_some(stray)}: a table speaks for the videos in its folder, and none is there; the videos elsewhere "
                "have texts. captions.layout: metadata reads the table instead of the texts"
            )
    if len(tables) and layout != "none":
        readable = tables.filter(pc.match_substring_regex(tables, _READABLE_TABLE))
        others = tables.filter(pc.invert(pc.match_substring_regex(tables, _READABLE_TABLE)))
        if len(readable):
            found.append(
                f"{_some(readable)}: a table of captions is called metadata.csv, .jsonl or .parquet, one in a folder; "
                "rename it, or make it the source"
            )
        if len(others):
            found.append(f"{_some(others)}: if it holds captions, save it as metadata.csv, .jsonl or .parquet")
    return found


def unpack_note(paths: pa.ChunkedArray) -> str:
    """Say which files are archives of kinds that are not read; "" if none is."""
    packed = paths.filter(pc.match_substring_regex(paths, _PACKED))
    return f"{_some(packed)}: unpack it, or pack it as .tar, .tar.gz, .zip or Parquet, which are read" * bool(packed)


def _in_place_of_texts(unused: pa.Table, videos: pa.Table, texts: pa.Table) -> pa.ChunkedArray:
    """Return the unused files that may hold the captions of videos without a text."""
    found = unused.filter(pc.match_substring_regex(unused.column("path"), _BESIDE))
    if found.num_rows:
        of_video, has_text = (pc.is_in(stems(found), one_chunk(stems(files))) for files in (videos, texts))
        found = found.filter(pc.and_not(of_video, has_text))
    return found.column("path")


def _some(paths: pa.ChunkedArray) -> str:
    return first_of(paths.slice(0, MAX_NAMES).to_pylist(), len(paths))
