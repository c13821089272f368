"""A sample of a source: spread, bounded, repeatable; captions and counts are those of the whole."""

from pathlib import Path

import numpy as np
import pytest

from sana.config.data import DatasetConfig
from sana.data.sources.ingest import ingest
from sana.data.sources.listing import SourceFile, table_of_files
from sana.data.sources.sample import SampleLimits, archives_to_read, sample_rows, sampled
from sana.errors import SanaError
from tests.source_files import make_files, opened

GIB = 2**30


@pytest.mark.parametrize(
    ("sizes", "clips", "num_bytes", "num"),
    [
        ([10] * 5, 200, 1000, 5),  # all
        ([10] * 1000, 200, 10**6, 200),
        ([10] * 1000, 200, 500, 50),
        ([10] * 50 + [10**6] * 50, 200, 10**5, 50),  # what is too large is passed over
        ([10**6] * 3, 200, 10**5, 0),
        ([10] * 100_001, 200, 10**6, 200),
        ([], 200, 10, 0),
    ],
)
def test_rows_are_bounded_and_spread(sizes: list[int], clips: int, num_bytes: int, num: int) -> None:
    videos = table_of_files(SourceFile(f"{row:06}.mp4", size, f"etag:{row}") for row, size in enumerate(sizes))
    rows = sample_rows(videos, clips, num_bytes)
    assert len(rows) == num and np.array_equal(rows, np.unique(rows))
    assert sum(sizes[row] for row in rows) <= num_bytes
    assert np.array_equal(rows, sample_rows(videos, clips, num_bytes))
    if num >= 50 and len(set(sizes)) == 1:  # each fifth of the listing has a fifth of the sample
        shares = np.histogram(rows, bins=5, range=(0, len(sizes)))[0] / num
        assert shares.min() > 0.12 and shares.max() < 0.28


@pytest.mark.parametrize("layout", ["textfile", "metadata"])
def test_a_sample_has_the_captions_of_its_clips(tmp_path: Path, layout: str) -> None:
    files: dict[str, bytes | str] = {f"{row:03}.mp4": f"video {row}" for row in range(100)}
    if layout == "textfile":
        files |= {f"{row:03}.txt": f"caption {row}" for row in range(100)}
    else:  # and every second row names a video that is not there
        rows = "".join(f"{row:03}.mp4,caption {row}\ngone{row:03}.mp4,x\n" for row in range(100))
        files["metadata.csv"] = f"file_name,caption\n{rows}"
    source = opened(make_files(tmp_path / "clips", files), tmp_path / "work")
    part = sampled(source, SampleLimits(clips=10))
    assert source.rows is None and part.rows is not None and len(part.rows) == 10
    tables = ingest([DatasetConfig(id="d", source="x")], [part], num_workers=2, report=lambda done, total: None)
    paths, captions = tables.clips.column("path").to_pylist(), tables.captions.column("captions").to_pylist()
    assert len(paths) == 10 and captions == [[f"caption {int(path[:3])}"] for path in paths]
    unmatched = 0 if layout == "textfile" else 10  # as large a part of the 100
    assert tables.num_in == {"d": 10 + unmatched} and tables.rejects.num_rows == unmatched


def test_a_source_that_is_small_is_itself(tmp_path: Path) -> None:
    source = opened(make_files(tmp_path / "clips", {"a.mp4": b"a", "a.txt": "a"}), tmp_path / "work")
    assert sampled(source, SampleLimits()) is source


def test_of_archives_the_smallest_that_fit_are_read(tmp_path: Path) -> None:
    from tests.packed_files import tar_of

    for number in range(4):
        (tmp_path / "clips").mkdir(exist_ok=True)
        (tmp_path / "clips" / f"{number}.tar").write_bytes(tar_of({f"{number}.mp4": bytes(10_000 * (number + 1))}))
    source = opened(tmp_path / "clips", tmp_path / "work")
    assert archives_to_read(source, SampleLimits(local_bytes=GIB)) is None
    assert archives_to_read(source, SampleLimits(local_bytes=70_000)) == ("0.tar", "1.tar")
    with pytest.raises(SanaError, match=r"has 4 archives, the smallest of 20\.0 KiB, and a first look reads 1\.0 KiB"):
        archives_to_read(source, SampleLimits(local_bytes=1024))
