"""The whole pipeline as one flow: download to sample. Running it again does only what is missing."""

from prefect import flow

from flows.form import ALL, Force, Overrides, Root, Until, run_name
from flows.stages import run_stages
from sana.pipeline.run import Done


@flow(name="sana-video", flow_run_name=run_name, persist_result=False)
def sana_pipeline(
    config: str = "configs/demo.yaml",
    overrides: Overrides = (),
    root: Root = "",
    until: Until = ALL,
    force: Force = (),
) -> list[Done]:
    """Turn a video data set into a trained and evaluated model: only what is missing or changed is done.

    Args:
        config: Path of a YAML config, absolute or from the folder that was deployed.
        overrides: Changed settings, key=value each, such as train.learning_rate=1e-4. Name a data set by its id.
        root: Where artifacts live, instead of the config's root: a folder or s3://bucket/prefix.
        until: Last stage to run; all: those that the config uses.
        force: Stages to run again although they are done.
    """
    return run_stages(config, overrides, root, None if until == ALL else until, force)
