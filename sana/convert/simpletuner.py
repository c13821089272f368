"""SimpleTuner's two files become one config of ours: every key is mapped, or not carried over with its reason."""

from pathlib import Path

from sana.convert.config_keys import CONFIG_KEYS
from sana.convert.conversion import Conversion, Keys, account, read_json
from sana.convert.mapping import Run, mapped_names
from sana.convert.training import NOT_CLIPPED
from sana.convert.unsupported_keys import FAULTS, Fault
from sana.errors import ConfigError


def convert(config: Path, backends: Path, *, num_processes: int = 1, keep_clipping: bool = False) -> Conversion:
    """Read both files; `num_processes` is how many GPUs the run had, which neither file says.

    `keep_clipping`: a run that clips nothing there clips nothing here, instead of to the official norm.

    Raises:
        ConfigError: a file is missing, not JSON, or asks for what cannot be done here at all.
    """
    raw, entries = read_json(config), read_json(backends)
    if not isinstance(raw, dict):
        raise ConfigError(f"{config} is not an object in braces, but {type(raw).__name__}; is it the config.json?")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(f"{backends} is not a list of data sets; is it the multidatabackend.json?")
    keys, conversion = Keys(raw, str(config)), Conversion()
    run = Run(num_processes, config.parent, entries, str(backends), keep_clipping=keep_clipping)
    for row in CONFIG_KEYS:
        row.write(conversion, keys, run)
    account(conversion, keys, mapped_names(CONFIG_KEYS))
    return conversion


def faults_of(conversion: Conversion) -> list[Fault]:
    """Return what SimpleTuner does wrong, as far as it concerns these files."""
    names = [name for setting in conversion.settings for name in setting.theirs]
    names += [key.name for key in conversion.not_carried]
    there = {part for name in names for part in name.split(".")}
    if not any(setting.why == NOT_CLIPPED for setting in conversion.settings):
        there.discard("max_grad_norm")  # it is carried over as it is
    return [fault for fault in FAULTS if not fault.needs or fault.needs in there]
