"""Prepare a data set: download to encode_latents, what training reads."""

from prefect import flow

from flows.form import Force, Overrides, PrepareUntil, Root, run_name
from flows.stages import run_stages
from sana.pipeline.run import Done


@flow(name="sana-prepare", flow_run_name=run_name, persist_result=False)
def prepare(
    config: str = "configs/demo.yaml",
    overrides: Overrides = (),
    root: Root = "",
    until: PrepareUntil = "encode_latents",
    force: Force = (),
) -> list[Done]:
    """Turn a video data set into captions and latents. Running it again encodes only new clips.

    Args:
        config: Path of a YAML config, absolute or from the folder that was deployed.
        overrides: Changed settings, key=value each, such as encode_latents.vae_precision=fp32.
        root: Where artifacts live, instead of the config's root: a folder or s3://bucket/prefix.
        until: Last stage to run.
        force: Stages to run again although they are done.
    """
    return run_stages(config, overrides, root, until, force)
