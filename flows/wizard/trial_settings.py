"""What `sana init` proposes where the model is a tiny one: all stages then take minutes, on a CPU as well."""

from flows.wizard.look import Model
from sana.errors import ConfigError
from sana.pipeline.check import Checked
from sana.pipeline.starting.starter import MODEL, Starter
from sana.pipeline.starting.trial import SAMPLES, TRAINING, is_tiny

WHY = "small, for a trial with a tiny model"


def improve(starter: Starter, model: Model, checked: Checked) -> Checked:
    """Choose what suits the model and the clips; returns what comes of the clips then."""
    path = starter.config.model.path
    sizes = None if path == MODEL else model.sizes(path)
    if sizes is not None and is_tiny(sizes.transformer):
        for settings in (SAMPLES, *({key: value} for key, value in TRAINING.items())):
            try:
                starter.choose({key: value for key, value in settings.items() if key not in starter.given}, why=WHY)
            except ConfigError:  # what -s says does not go together with it, and comes first
                continue
    return starter.improve(checked.with_config(starter.config))
