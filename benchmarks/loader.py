"""How fast are samples read, against reading the same bytes raw; and what does the check before training take?

    python -m benchmarks.loader

Raw is one `preadv` (on S3: one range GET by boto3) a tensor into buffers allocated before, in the same order: no
digest, no tensor. Warm: all bytes are in the page cache, as those of a data set larger than memory cannot be; cold:
none is. S3 is a server on loopback with 8 requests in flight. The rows of a table take turns in one run; rates are
the best of all turns.
"""

import os
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import boto3
import numpy as np
import xxhash
from botocore.config import Config

from benchmarks.made_up_store import Case, build
from sana.data.loading.buffers import Buffers
from sana.data.loading.loader import Reader, Samples
from sana.data.shards.shard_cache import ShardFiles
from sana.data.shards.shard_check import check_samples
from sana.runtime.threads import in_threads
from tests.s3_server import WeedServer

IN_FLIGHT = 8
REPEATS = {"warm": 30, "cold": 5, "S3": 5}
HELD = 3  # batches in memory at once: prefetch_batches and the one in use


def rates(
    works: dict[str, Callable[[], None]], num_samples: int, *, repeats: int, before: Callable[[], None] = lambda: None
) -> dict[str, tuple[float, float]]:
    """Samples per second of wall time and of CPU time of each work, in turns, the best of all."""
    best = dict.fromkeys(works, (0.0, 0.0))
    for _ in range(repeats):
        for name, work in works.items():
            before()
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            found = num_samples / (time.perf_counter() - wall), num_samples / (time.process_time() - cpu)
            best[name] = (max(best[name][0], found[0]), max(best[name][1], found[1]))
    return best


def rows_of(samples: Samples) -> list[int]:
    return np.random.default_rng(0).permutation(len(samples)).tolist()


def table(title: str, best: dict[str, tuple[float, float]], sample_bytes: int) -> None:
    floor = next(iter(best.values()))
    print(f"\n| {title} | samples/s | MB/s | ratio | samples per CPU second | ratio |\n|---|---|---|---|---|---|")
    for name, (wall, cpu) in best.items():
        print(f"| {name} | {wall:,.0f} | {wall * sample_bytes / 1e6:,.0f} | {wall / floor[0]:.2f} ", end="")
        print(f"| {cpu:,.0f} | {cpu / floor[1]:.2f} |")


def ranges(samples: Samples, row: int) -> list[tuple[str, int, int]]:
    places = ((samples.tensors["latents"], row), (samples.tensors["captions"], int(samples.first_caption[row])))
    return [(where.shard(at), int(where.offsets[at]), int(where.num_bytes[at])) for where, at in places]


def local(folder: Path, case: Case) -> None:
    store, samples = build(str(folder / case.bucket), case)
    order = rows_of(samples)
    wanted = [ranges(samples, row) for row in order]
    files = {shard: os.open(folder / case.bucket / shard, os.O_RDONLY) for reads in wanted for shard, _, _ in reads}
    # several in turn, as in reading ahead: one alone would stay in the processor's cache
    memory = Buffers()  # they begin on a cache line: elsewhere the rate varies with the place
    buffers = [[memory.lend(size).data for _, _, size in wanted[0]] for _ in range(HELD)]

    def raw(digest: bool = False) -> None:
        for turn, reads in enumerate(wanted):
            for (shard, start, _), buffer in zip(reads, buffers[turn % HELD], strict=True):
                os.preadv(files[shard], [buffer], start)
                if digest:
                    xxhash.xxh3_128_digest(buffer)

    def loader(*, verify: bool) -> Callable[[], None]:
        reader = Reader(ShardFiles(store), samples, verify=verify)

        def work() -> None:
            held: deque[object] = deque(maxlen=HELD - 1)
            for row in order:
                held.append(reader.read_batch([(row, 0)]))

        return work

    reader = Reader(ShardFiles(store), samples)

    def ahead() -> None:
        depth = HELD - 1
        for _ in in_threads(lambda row: reader.read_batch([(row, 0)]), order, num_threads=depth, num_ahead=depth):
            pass

    works: dict[str, Callable[[], None]] = {
        "raw, one thread": raw,
        "raw, and the digest of it": partial(raw, digest=True),
        "loader, one thread": loader(verify=True),
        "loader, one thread, verify_checksums: false": loader(verify=False),
        f"loader, prefetch_batches: {HELD - 1}": ahead,
    }
    sample_bytes = sum(num_bytes for *_, num_bytes in wanted[0])

    def drop_page_cache() -> None:
        for file in files.values():
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)

    os.sync()  # unwritten pages cannot be dropped
    for state, before in (("warm", lambda: None), ("cold", drop_page_cache)):
        best = rates(works, len(order), repeats=REPEATS[state], before=before)
        table(f"disk, {state}, {case.bucket}, batch 1", best, sample_bytes)


def remote(server: WeedServer, case: Case) -> None:
    store, samples = build(f"s3://{server.bucket}/bench", case)
    order = rows_of(samples)
    wanted = [read for row in order for read in ranges(samples, row)]
    client = boto3.client("s3", config=Config(max_pool_connections=IN_FLIGHT))

    def get(read: tuple[str, int, int]) -> None:
        shard, start, num_bytes = read
        span = f"bytes={start}-{start + num_bytes - 1}"
        client.get_object(Bucket=server.bucket, Key=f"bench/{shard}", Range=span)["Body"].read()

    def raw() -> None:
        with ThreadPoolExecutor(IN_FLIGHT) as threads:
            list(threads.map(get, wanted))

    def bare() -> None:
        with ThreadPoolExecutor(IN_FLIGHT) as threads:
            list(threads.map(lambda read: store.read_range(*read), wanted))

    reader = Reader(ShardFiles(store), samples)

    def ahead() -> None:  # each batch of one sample is two requests
        depth = IN_FLIGHT // 2
        for _ in in_threads(lambda row: reader.read_batch([(row, 0)]), order, num_threads=depth, num_ahead=depth):
            pass

    works = {"raw (boto3)": raw, "the store's client alone (s3fs)": bare, "loader, prefetch_batches: 4": ahead}
    table(
        f"S3, {case.bucket}, batch 1",
        rates(works, len(order), repeats=REPEATS["S3"]),
        sum(num_bytes for *_, num_bytes in wanted[:2]),
    )


def check(root: str, case: Case) -> None:
    store, samples = build(root, case)
    num_shards = len(samples.tensors["latents"].shards) + len(samples.tensors["captions"].shards)
    started, cpu = time.perf_counter(), time.process_time()
    check_samples(store, [samples], caption_channels=case.caption_channels, on_shard=lambda *_: None)
    wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    print(f"| {root.partition(':')[0] if '://' in root else 'disk'} | {num_shards:,} | {len(samples):,} | ", end="")
    print(f"{wall_s:.1f} | {cpu_s:.1f} |")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        local(folder, Case("17x128x192", 600))
        local(folder, Case("81x480x832", 96))
        with WeedServer() as server:
            os.environ.update(server.env())
            remote(server, Case("81x480x832", 48))
            print("\n| check before training | shards | samples | seconds | CPU seconds |\n|---|---|---|---|---|")
            check(str(folder / "many"), Case("1x16x16", 160_000, num_tokens=1, caption_channels=4))
            check(f"s3://{server.bucket}/many", Case("1x16x16", 8_000, num_tokens=1, caption_channels=4))


if __name__ == "__main__":
    main()
