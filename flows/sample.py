"""Make the videos of validation from a checkpoint, on this machine, while another one trains or after it."""

from pathlib import Path

from prefect import flow

from sana.config.load import load_config
from sana.context import Context
from sana.pipeline.validation import validate_checkpoint
from sana.store import open_store
from tasks.tracking.pictures import show_validation_of


@flow(name="sana-sample", persist_result=False)
def sample(
    config: str = "configs/demo.yaml",
    overrides: list[str] | None = None,
    root: str | None = None,
    step: int | None = None,
) -> list[str]:
    """Make the videos of `train.validation` from a checkpoint, the newest by default, and show them in MLflow.

    Returns the addresses of the videos. What is there already is not made again, so it may be scheduled.

    Args:
        config: path of a YAML config.
        overrides: `key=value` each, such as train.validation.weights=both.
        root: where artifacts live, instead of the config's.
        step: of the checkpoint; 0 is before training.
    """
    loaded = load_config(config, overrides or [])
    loaded = loaded.model_copy(update={"root": root}) if root else loaded
    context = Context(loaded, open_store(loaded.root), Path(loaded.work_dir).absolute())
    done = validate_checkpoint(context, step)
    show_validation_of(context, done)
    return [context.store.uri(done.record.files[video.file].key) for video in done.record.videos]
