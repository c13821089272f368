"""One machine's part of the encoding, as a flow: what `encode_latents.resources.remote_workers` starts elsewhere."""

from dataclasses import replace

from prefect import flow

from flows.form import Overrides, Root, run_name
from sana.pipeline.plan import inputs_of
from sana.stages import encode_latents
from tasks.encode_worker import EncodePartition, page_of_partition, partition_context, run_partition
from tasks.form_terms import in_form_terms


@flow(name="encode-worker", flow_run_name=run_name, persist_result=False)
def encode_worker(
    config: str = "configs/demo.yaml",
    overrides: Overrides = (),
    root: Root = "",
    index: int = 0,
    count: int = 1,
    salt: str = "",
) -> int:
    """Encode worker `index`'s part of the clips, then help with the rest; returns how many samples were missing.

    Args:
        config: Path of a YAML config; everything up to bucket must be committed at its root.
        overrides: Changed settings, key=value each.
        root: Where artifacts live, instead of the config's root: a folder or s3://bucket/prefix.
        index: Which worker this is, from 0.
        count: How many workers there are.
        salt: Of a forced run: what makes it its own pool. Set by the run that starts the workers.
    """
    with page_of_partition(config, index, count) as work, in_form_terms(config):
        context = replace(partition_context(config, overrides or (), root, salt), report=work.report)
        return run_partition(EncodePartition(context, inputs_of(context, encode_latents.NAME), index, count), work)
