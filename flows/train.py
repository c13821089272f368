"""Train on a data set, which is prepared first where it is not yet."""

from prefect import flow

from flows.form import Force, Overrides, Root, TrainUntil, run_name
from flows.stages import run_stages
from sana.pipeline.run import Done


@flow(name="sana-train", flow_run_name=run_name, persist_result=False)
def train(
    config: str = "configs/demo.yaml",
    overrides: Overrides = (),
    root: Root = "",
    until: TrainUntil = "train",
    force: Force = (),
) -> list[Done]:
    """Train. What `prepare` has made is found in storage; what it has not is made first.

    Args:
        config: Path of a YAML config, absolute or from the folder that was deployed.
        overrides: Changed settings, key=value each, such as train.learning_rate=1e-4.
        root: Where artifacts live, instead of the config's root: a folder or s3://bucket/prefix.
        until: Last stage to run, train by itself or with what comes after it.
        force: Stages to run again although they are done.
    """
    return run_stages(config, overrides, root, until, force)
