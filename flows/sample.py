"""Make the videos of `sample.prompts` with a trained model. Nothing is trained."""

from prefect import flow

from flows.form import Overrides, Root, run_name
from flows.stages import run_trained
from sana.pipeline.run import Done


@flow(name="sana-sample", flow_run_name=run_name, persist_result=False)
def sample(
    config: str = "configs/demo.yaml",
    overrides: Overrides = (),
    root: Root = "",
    force: bool = False,
) -> list[Done]:
    """Make the videos of `sample.prompts` with a trained model.

    Nothing is trained: the run ends at once where the config's training is not finished.

    Args:
        config: Path of a YAML config, absolute or from the folder that was deployed.
        overrides: Changed settings, key=value each, such as sample.num_inference_steps=50.
        root: Where artifacts live, instead of the config's root: a folder or s3://bucket/prefix.
        force: Make the videos again although they are there.
    """
    return run_trained("sample", config, overrides, root, force=force)
