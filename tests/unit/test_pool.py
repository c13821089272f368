"""Pools: each id once, whatever was committed and compacted in which order; keys of whole tables; shares of workers."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sana.arrow import table_of, to_parquet
from sana.data.schemas import SAMPLE_KEY_COLUMNS, WINDOWS
from sana.data.tables import sample_key, sample_keys
from sana.errors import SanaError
from sana.runtime import pool as module
from sana.runtime.pool import Pool
from sana.runtime.work_partition import WorkPartition
from sana.store import LocalStore

pytestmark = pytest.mark.timeout(60)

SCHEMA = pa.schema([("key", pa.string()), ("bucket", pa.string()), ("digest", pa.string()), ("value", pa.int64())])
CUTS = pa.schema([WINDOWS.field(name) for name in SAMPLE_KEY_COLUMNS])
number = st.floats(min_value=0, max_value=1e5, allow_nan=False)
cut = st.fixed_dictionaries(
    {
        "digest": st.text(min_size=1, max_size=6),
        "bucket": st.sampled_from(["81x480x832", "17x96x160"]),
        "start_frame": st.integers(0, 2**31 - 1),
        **dict.fromkeys(("window_fps", "crop_left", "crop_top", "crop_width", "crop_height"), number),
        "treatment": st.sampled_from(["", "hlg"]),
    }
)


@settings(max_examples=25)
@given(rows=st.lists(cut, max_size=8))
def test_keys_of_a_table_are_those_of_its_rows(rows: list[dict]) -> None:
    table = pa.concat_tables([table_of(rows[:3], CUTS), table_of(rows[3:], CUTS)])
    assert sample_keys(table).to_pylist() == [sample_key(row) for row in rows]


def rows(*ids: int, value: int = 0) -> pa.Table:
    return table_of([{"key": f"{n:04d}", "bucket": "a", "digest": f"d{n}", "value": value} for n in ids], SCHEMA)


def new_pool(folder: Path) -> Pool:
    return Pool(LocalStore(str(folder)), "stage", "key", schema=SCHEMA, id_column="key")


@settings(max_examples=25)
@given(
    commits=st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=5, unique=True), max_size=25),
    compact_at=st.sets(st.integers(0, 25)),
    cap=st.sampled_from([3, 10, 1000]),
)
def test_compaction_changes_nothing_that_is_read(
    tmp_path_factory: pytest.TempPathFactory, commits: list[list[int]], compact_at: set[int], cap: int
) -> None:
    pool = new_pool(tmp_path_factory.mktemp("pool"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "COMPACT_FROM", 3)
        patch.setattr(module, "COMPACT_ROWS", cap)
        seen: set[str] = set()
        heard: set[str] = set()
        for turn, ids in enumerate(commits):
            pool.commit_part(rows(*ids))
            if turn in compact_at:
                pool.compact()
                heard |= set(pool.ids_since(seen).to_pylist())
        expected = sorted({f"{n:04d}" for ids in commits for n in ids})
        assert sorted(pool.rows().column("key").to_pylist()) == expected == sorted(pool.ids().to_pylist())
        assert heard | set(pool.ids_since(seen).to_pylist()) == set(expected)
        assert pool.ids_since(seen).to_pylist() == []


def test_of_two_rows_of_an_id_one_holds(tmp_path: Path) -> None:
    pool = new_pool(tmp_path)
    pool.commit_part(rows(1, 2, 3, value=7))
    pool.commit_part(rows(3, 4, value=8))
    found = pool.rows()
    assert found.num_rows == 4 and set(found.column("value").to_pylist()) == {7, 8}


def test_a_compacted_table_that_does_not_name_its_parts_is_one_error(tmp_path: Path) -> None:
    pool = new_pool(tmp_path)
    key = f"{pool.folder}/compacted/000000001-a.parquet"
    pool.store.put_if_absent(key, to_parquet(rows(1), metadata={"parts": '["a"]', "replaces": "[1]"}))
    with pytest.raises(SanaError, match=f"{key}: its metadata has no list `replaces`; remove that file"):
        pool.rows()


def test_a_row_is_written_again_a_few_times_only(tmp_path: Path) -> None:
    """256 parts committed and compacted 16 at a time: few tables are live, and few rows are written in all."""
    pool = new_pool(tmp_path)
    for part in range(256):
        pool.commit_part(rows(part))
        if part % 16 == 15:
            pool.compact()
    tables = [module.read_parquet(pool.store.read(key)) for key, _ in pool.store.list(f"{pool.folder}/compacted")]
    assert sum(table.num_rows for table in tables) <= 256 * 5  # one table of everything each time: 256 x 8.5
    assert len(pool._compacted(["key"])) <= 8
    assert len(pool.ids()) == 256


@settings(max_examples=25)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    part_size=st.integers(1, 5),
    num_workers=st.integers(1, 5),
    known=st.integers(0, 12),
)
def test_workers_share_what_the_pool_lacks(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], part_size: int, num_workers: int, known: int
) -> None:
    """In turns, each commits the part it is given: every row is done by one, in parts of one bucket, own ones first."""
    pool = new_pool(tmp_path_factory.mktemp("share"))
    table = table_of(
        [
            {"key": f"{bucket}-{n:03d}", "bucket": f"b{bucket}", "digest": f"d{bucket}{n}", "value": 0}
            for bucket, size in enumerate(sizes)
            for n in range(size)
        ],
        SCHEMA,
    )
    there = table.slice(0, min(known, table.num_rows))
    if there.num_rows:
        pool.commit_part(there)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sana.runtime.work_partition._LOOK_AGAIN", 0)
        partitions = [WorkPartition(pool, table, part_size=part_size) for _ in range(num_workers)]
        assert sum(partitions[0].done().values()) == there.num_rows
        turns = [partition.parts(worker, num_workers) for worker, partition in enumerate(partitions)]
        done: list[str] = there.column("key").to_pylist()
        while turns:
            for turn in list(turns):
                part = next(turn, None)
                if part is None:
                    turns.remove(turn)
                    continue
                assert len(part) <= part_size and len({row["bucket"] for row in part}) == 1
                pool.commit_part(table_of(part, SCHEMA))
                done += [row["key"] for row in part]
    assert sorted(done) == table.column("key").to_pylist()


def test_rows_taken_apart_are_in_no_part(tmp_path: Path) -> None:
    pool = new_pool(tmp_path)
    pool.commit_part(rows(2))
    partition = WorkPartition(pool, rows(*range(6)), part_size=2)
    assert [row["key"] for row in partition.apart(["d1", "d2", "d4", "other"])] == ["0001", "0004"]
    assert [[row["key"] for row in part] for part in partition.parts(0, 1)] == [["0000"], ["0003"], ["0005"]]


def test_a_flipped_bit_is_an_error_or_changes_nothing(tmp_path: Path) -> None:
    pool = new_pool(tmp_path)
    assert pool.commit_part(rows(*range(40), value=7))
    whole = pool.rows()
    [path] = tmp_path.rglob("*.parquet")
    data = path.read_bytes()
    outcomes = set()
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 1 << at % 8
        path.write_bytes(flipped)
        try:
            assert pool.rows().equals(whole), f"byte {at} of {len(data)}: other rows"
            outcomes.add("nothing")
        except SanaError as error:
            assert str(path) in str(error)
            outcomes.add("error")
    assert outcomes == {"nothing", "error"}
