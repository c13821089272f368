"""Train on a prepared data set, evaluate and sample."""

from prefect import flow

from flows.pipeline import run_stages
from sana.pipeline.run import Done


@flow(name="sana-train", persist_result=False)
def train(
    config: str = "configs/demo.yaml",
    overrides: list[str] | None = None,
    root: str | None = None,
    until: str = "sample",
    force: list[str] | None = None,
) -> list[Done]:
    """Train, evaluate and sample. What `prepare` has made is found in storage; what it has not is made first."""
    return run_stages(config, overrides, root, until, force)
