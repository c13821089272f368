"""One machine's part of the encoding, as a flow: what `encode_latents.resources.remote_workers` starts elsewhere."""

from prefect import flow

from sana.pipeline.plan import inputs_of
from sana.stages import encode_latents
from tasks.encode_worker import EncodePartition, encode_partition, partition_context


@flow(name="encode-worker", persist_result=False)
def encode_worker(
    config: str = "configs/demo.yaml",
    overrides: list[str] | None = None,
    root: str | None = None,
    index: int = 0,
    count: int = 1,
    salt: str = "",
) -> int:
    """Encode worker `index`'s part of the clips, then help with the rest; returns how many samples were missing.

    Args:
        config: path of a YAML config; everything up to bucket must be committed at its root.
        overrides: `key=value` each.
        root: where artifacts live, instead of the config's.
        index: which worker this is, from 0.
        count: how many workers there are.
        salt: of a forced run; see `sana.context.Context`.
    """
    context = partition_context(config, overrides or (), root, salt)
    return encode_partition(EncodePartition(context, inputs_of(context, encode_latents.NAME), index, count))
