"""The task of an encode worker: one machine's part of stage encode_latents."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from prefect import task

from sana.artifact import Artifact
from sana.config.load import load_config
from sana.context import Context
from sana.stages import encode_latents as stage
from sana.store import open_store
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
    report = partial(PrefectProgress().on_stage_progress, f"worker {partition.index} of {partition.count}")
    context = replace(partition.context, report=report)
    return stage.encode_partition(context, partition.inputs, index=partition.index, count=partition.count)
