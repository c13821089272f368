"""Make the videos of validation from a checkpoint, on this machine, while another one trains or after it."""

from dataclasses import replace

from prefect import flow

from flows.form import NEWEST, Overrides, Root, Step, run_name
from sana.pipeline.validation import validate_checkpoint
from tasks.flow_run import context_of
from tasks.form_terms import in_form_terms
from tasks.validation import page_of_validation, tell


@flow(name="sana-validation", flow_run_name=run_name, persist_result=False)
def validation(
    config: str = "configs/demo.yaml",
    overrides: Overrides = (),
    root: Root = "",
    step: Step = NEWEST,
) -> list[str]:
    """Make the videos of `train.validation` from a checkpoint, the newest by default, and show them in MLflow.

    Returns the addresses of the videos. What is there already is not made again, so it may be scheduled.

    Args:
        config: Path of a YAML config, absolute or from the folder that was deployed.
        overrides: Changed settings, key=value each, such as train.validation.weights=both.
        root: Where artifacts live, instead of the config's root: a folder or s3://bucket/prefix.
        step: Step of the checkpoint; -1 is the newest, 0 before training.
    """
    with page_of_validation(config) as work:
        with in_form_terms(config):
            context = replace(context_of(config, overrides or (), root), report=work.report)
            done = validate_checkpoint(context, None if step == NEWEST else step)
        tell(context, done, work)
    return [context.store.uri(done.record.files[video.file].key) for video in done.record.videos]
