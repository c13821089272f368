"""Evaluate a trained model on the held-out clips. Nothing is trained."""

from prefect import flow

from flows.form import Overrides, Root, run_name
from flows.stages import run_trained
from sana.pipeline.run import Done


@flow(name="sana-evaluate", flow_run_name=run_name, persist_result=False)
def evaluate(
    config: str = "configs/demo.yaml",
    overrides: Overrides = (),
    root: Root = "",
    force: bool = False,
) -> list[Done]:
    """Evaluate a trained model on the held-out clips: the eval loss before and after training.

    Nothing is trained: the run ends at once where the config's training is not finished.

    Args:
        config: Path of a YAML config, absolute or from the folder that was deployed.
        overrides: Changed settings, key=value each, such as evaluate.num_sigmas=16.
        root: Where artifacts live, instead of the config's root: a folder or s3://bucket/prefix.
        force: Evaluate again although it is done.
    """
    return run_trained("evaluate", config, overrides, root, force=force)
