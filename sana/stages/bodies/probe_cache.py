"""What a check found in videos, kept under work_dir: the run after it opens none of them again.

A table PROBES, as the pool of a root has it; a damaged one, or one of another version, is as good as none. Videos that
killed a worker are not in it: the next check or run tries those again.
"""

from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from sana.arrow import anti_join, read_parquet, to_parquet
from sana.atomic_io import atomic_write
from sana.data.schemas import PROBES, Reason
from sana.errors import SanaError
from sana.runtime.pool import Pool


class ProbeCache:
    """The file of one pool's key in a work_dir."""

    def __init__(self, work_dir: Path, key: str) -> None:
        self._path = work_dir / "cache" / f"probes-{key}.parquet"

    def rows(self) -> pa.Table:
        """Return all rows, a table PROBES."""
        with suppress(SanaError, OSError, KeyError, pa.ArrowException):
            return read_parquet(self._path.read_bytes()).select(PROBES.names).cast(PROBES)
        return PROBES.empty_table()

    def give(self, pool: Pool, clips: pa.Table) -> None:
        """Commit what is known of these clips to a pool that does not have it."""
        known = self.rows()
        known = known.filter(pc.is_in(known["digest"], value_set=clips["digest"].combine_chunks()))
        if known.num_rows and (new := anti_join(known, pool.rows(), "digest")).num_rows:
            pool.commit_part(new)

    def keep(self, pool: Pool) -> None:
        """Add what a pool has learnt."""
        known, learnt = self.rows(), pool.rows()
        learnt = learnt.filter(pc.not_equal(learnt["reason"], Reason.KILLED_WORKER.value))
        if (new := anti_join(learnt, known, "digest")).num_rows:
            with atomic_write(self._path) as temp:
                temp.write_bytes(to_parquet(pa.concat_tables([known, new])))
