"""The body of stages that pool tensors: each id is made once, and every wanted row is in the index or a reject."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sana.artifact import Draft, Recipe
from sana.errors import SanaError
from sana.runtime.pool import Pool
from sana.stages.bodies.pooled_tensors import PooledTensors
from sana.store import LocalStore

POOL = pa.schema([(name, pa.string()) for name in ("key", "reason", "detail", "digest")])
INDEX = pa.schema([(name, pa.string()) for name in ("path", "key", "digest")])
keys = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=12)


def pooled(store: LocalStore, wanted: list[str]) -> PooledTensors:
    """Rows 0, 1, ... that want these keys; of each, `digest` is the video's, and the pool's is the tensor's."""
    rows = [
        {"clip_id": f"c{n}", "dataset": "d", "path": f"{99 - n}.mp4", "key": key, "digest": f"video {n}"}
        for n, key in enumerate(wanted)
    ]
    pool = Pool(store, "stage", "k", schema=POOL, id_column="key")
    return PooledTensors("stage", pool, pa.Table.from_pylist(rows), "samples", ("key", "path"), ("key", "path"), INDEX)


def put(pool: Pool, ids: list[str]) -> None:
    rows = [{"key": key, "reason": "bad" * (key == "f"), "detail": "", "digest": f"tensor {key}"} for key in ids]
    pool.commit_part(pa.Table.from_pylist(rows, POOL))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wanted=keys, there=st.sets(st.sampled_from("abcdef")))
def test_each_missing_id_is_made_once_and_no_row_is_lost(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[str], there: set[str]
) -> None:
    store = LocalStore(str(tmp_path_factory.mktemp("pool")))
    tensors = pooled(store, wanted)
    if there:
        put(tensors.pool, sorted(there))
    lacked = sorted(set(wanted) - there)
    assert tensors.remaining() == (len(set(wanted) & there), len(set(wanted)), "samples")
    given_rows: list[dict] = []

    def encode(todo: pa.Table) -> None:
        given_rows.extend(todo.to_pylist())
        put(tensors.pool, todo.column("key").to_pylist())

    made = tensors.make(Draft(store, Recipe("stage", 1, {}, {})), encode, may_reject=True)
    first = {key: min(f"{99 - n}.mp4" for n, of in enumerate(wanted) if of == key) for key in lacked}
    assert given_rows == [{"key": key, "path": first[key]} for key in lacked], "of equal ids the first by path"
    assert made.num_made == len(lacked) and tensors.remaining()[0] == len(set(wanted))
    rows, rejects = made.index.to_pylist(), made.rejects.to_pylist()
    assert [row["key"] for row in rows] == [key for key in wanted if key != "f"]
    assert all(row["digest"] == f"tensor {row['key']}" for row in rows), "the pool's column, not the row's"
    assert [row["clip_id"] for row in rejects] == [f"c{n}" for n, key in enumerate(wanted) if key == "f"]
    assert all((row["stage"], row["reason"]) == ("stage", "bad") for row in rejects)


def test_what_is_left_out_is_an_error(tmp_path: Path) -> None:
    tensors = pooled(LocalStore(str(tmp_path)), ["a", "b", "b"])
    with pytest.raises(SanaError, match="stage: 2 of 3 samples are not in the pool; run again"):
        tensors.make(
            Draft(tensors.pool.store, Recipe("stage", 1, {}, {})), lambda _: put(tensors.pool, ["a"]), may_reject=True
        )
