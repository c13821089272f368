"""The task of an encode worker: one machine's part of stage encode_latents."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from prefect import task

from sana.artifact import Artifact
from sana.config.load import load_config
from sana.context import Context
from sana.stages import encode_latents as stage
from sana.store import open_store
from tasks.prefect_pages.markdown import text
from tasks.prefect_pages.stages import reasons
from tasks.prefect_pages.work_page import Work, page_of_work
from tasks.prefect_progress import PrefectProgress
from tasks.stages import POLICY


class EncodePartition:
    """What the task is given. Not a dataclass: Prefect walks through those to look for futures."""

    def __init__(self, context: Context, inputs: Mapping[str, Artifact], index: int, count: int) -> None:
        self.context, self.inputs, self.index, self.count = context, inputs, index, count


def partition_context(config: str, overrides: Iterable[str], root: str | None, salt: str) -> Context:
    """Read a config; `root`, where given, replaces the config's.

    Raises:
        ConfigError: the config is wrong.
        StoreError: the root cannot be opened.
    """
    loaded = load_config(config, [*overrides, *([f"root={root}"] if root else [])])
    return Context(loaded, open_store(loaded.root), Path(loaded.work_dir).absolute(), salt=salt)


@task(name="encode-partition", **POLICY)
def encode_partition(partition: EncodePartition) -> int:
    """Encode the partition; returns how many samples were missing when it began."""
    return stage.encode_partition(partition.context, partition.inputs, index=partition.index, count=partition.count)


@contextmanager
def page_of_partition(config: str, index: int, count: int) -> Iterator[Work]:
    """Keep the page and the ring of a flow run that does one machine's part."""
    what = f"encode worker {index + 1} of {count}"  # as people count
    with page_of_work(config, what, partial(PrefectProgress().on_stage_progress, what)) as work:
        yield work


def run_partition(partition: EncodePartition, work: Work) -> int:
    """Encode the partition as a task, and tell its page what came of it; returns how many samples were missing."""
    missing = encode_partition(partition)
    context = partition.context
    there = stage.pooled(context, partition.inputs)
    work.numbers = [
        ("missing when it began", missing),
        ("encoded by now, by all workers", f"{there.counts.num_out} of {there.num_wanted}"),
        ("rejected by now", there.counts.num_rejected),
    ]
    work.more = lambda: [reasons(there.counts), f"Latents: {text(context.store.uri(there.folder))}"]
    return missing
