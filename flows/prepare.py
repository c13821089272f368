"""Prepare a data set: download to encode_latents, what training reads."""

from prefect import flow

from flows.pipeline import run_stages
from sana.pipeline.run import Done


@flow(name="sana-prepare", persist_result=False)
def prepare(
    config: str = "configs/demo.yaml",
    overrides: list[str] | None = None,
    root: str | None = None,
    until: str = "encode_latents",
    force: list[str] | None = None,
) -> list[Done]:
    """Turn a video data set into captions and latents. Running it again encodes only new clips."""
    return run_stages(config, overrides, root, until, force)
