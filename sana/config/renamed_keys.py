"""Renamed settings: an old key or value is an error that names the new one."""

from collections.abc import Mapping
from typing import Any

from sana.config.messages import shown

# Old dotted key: new one. `*` stands for any position in a list. A section comes after the keys in it.
RENAMED_KEYS = {
    "download.datasets.*.max_refused_fraction": "download.datasets.*.max_rejected_fraction",
    "download.datasets.*.weight": "download.datasets.*.sampling_weight",
    "bucket.eval_sources": "bucket.holdout",
    "bucket.holdout_sources": "bucket.holdout",
    "encode_latents.vae_dtype": "encode_latents.vae_precision",
    "encode_latents.resources.worker_runs": "encode_latents.resources.remote_workers",
    "train.resources.checkpoint_every_min": "train.resources.checkpoint_every_minutes",
    "train.resources.gradient_checkpointing": "train.resources.activation_memory",
    "train.resources.keep_last": "train.resources.max_checkpoints",
    "train.schedule": "train.lr_schedule.name",
    "train.warmup_steps": "train.lr_schedule.warmup_steps",
    "train.decay_steps": "train.lr_schedule.decay_steps",
    "train.min_learning_rate": "train.lr_schedule.min_learning_rate",
    "train.beta1": "train.optimizer.beta1",
    "train.beta2": "train.optimizer.beta2",
    "train.epsilon": "train.optimizer.epsilon",
    "train.weight_decay": "train.optimizer.weight_decay",
    "train.sigma.policy": "train.timestep_sampling.name",
    "train.sigma.mean": "train.timestep_sampling.mean",
    "train.sigma.std": "train.timestep_sampling.std",
    "train.sigma.shift": "train.timestep_sampling.shift",
    "train.sigma": "train.timestep_sampling",
}
# Old dotted key: {its value: the one that means it under the new key}.
VALUES_OF_RENAMED_KEYS: dict[str, dict[str | bool, str | float]] = {
    "encode_latents.vae_dtype": {"fp32": "tf32"},  # fp32 there is strict, with an address of its own
    "train.resources.gradient_checkpointing": {True: "recompute_all", False: 1.0},
}
# Dotted key, as it is called now: {old value: new one}.
RENAMED_VALUES: dict[str, dict[str | bool, str]] = {
    "download.datasets.*.captions.missing": {"refuse": "reject"},
    "download.datasets.*.bucket.too_long": {"refuse": "reject"},
    "probe.duplicates": {"refuse": "reject"},
    "bucket.too_long": {"refuse": "reject"},
    "bucket.small_buckets": {"pad": "oversample"},
    "train.mixed_precision": {"no": "fp32", False: "fp32"},
}


KeyPath = tuple[str | int, ...]


def with_new_names(raw: Mapping[str, Any]) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """Return a config's plain values under today's names, and one message for each old key or value in it.

    Messages are by the path under which the value is now. A section that was renamed as a whole has one message.
    """
    values: dict[str, Any] = _copy(raw)
    problems: dict[KeyPath, str] = {}
    for old, new in RENAMED_KEYS.items():
        for path in _matching_paths(values, old.split(".")):
            value = _at(values, path[:-1]).pop(path[-1])
            target = _filled(new.split("."), path)
            keys = {at: text for at, text in problems.items() if text.startswith(f"{_dotted(path)}.")}
            if value == {} and len(keys) == 1:
                continue  # its one key has its own message
            problems = {at: text for at, text in problems.items() if at not in keys}
            renamed = [
                f"{text.partition(':')[0].rpartition('.')[2]} in it is {at[-1]}"
                for at, text in keys.items()
                if not text.partition(":")[0].endswith(f".{at[-1]}")
            ]
            meant = VALUES_OF_RENAMED_KEYS.get(old, {}).get(value) if isinstance(value, str | bool) else None
            if meant is not None:
                renamed.append(f"its {value if isinstance(value, str) else shown(value)} is now {meant}")
                value = meant
            problems[target] = ", and ".join([f"{_dotted(path)}: is now {_dotted(target)}", *renamed])
            _put(values, target, value)
    for key, new_values in RENAMED_VALUES.items():
        for path in _matching_paths(values, key.split(".")):
            node = _at(values, path[:-1])
            value = node[path[-1]]
            if isinstance(value, str | bool) and value in new_values:
                node[path[-1]] = new_values[value]
                problems[path] = f"{_dotted(path)}: {shown(value)} is now {new_values[value]}"
    return values, problems


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _copy(child) for name, child in value.items()}
    return [_copy(child) for child in value] if isinstance(value, list) else value


def _matching_paths(node: Any, pattern: list[str], above: KeyPath = ()) -> list[KeyPath]:
    """Return the paths that match a dotted pattern in plain values."""
    if not pattern:
        return [above]
    name, *rest = pattern
    if name == "*" and isinstance(node, list):
        return [path for at, child in enumerate(node) for path in _matching_paths(child, rest, (*above, at))]
    return _matching_paths(node[name], rest, (*above, name)) if isinstance(node, dict) and name in node else []


def _filled(pattern: list[str], path: KeyPath) -> KeyPath:
    positions = iter([part for part in path if isinstance(part, int)])
    return tuple(next(positions) if part == "*" else part for part in pattern)


def _at(node: Any, path: KeyPath) -> Any:
    for part in path:
        node = node[part]
    return node


def _put(values: dict[str, Any], target: KeyPath, value: Any) -> None:
    """Put a value at its new path, unless there is one; sections are merged."""
    node: Any = values
    for part in target[:-1]:
        if isinstance(node, dict) and node.get(part) is None:
            node[part] = {}
        if not isinstance(node, dict | list):
            return  # the value there is a mistake of its own
        node = _at(node, (part,))
    if isinstance(node, dict):
        present = node.setdefault(target[-1], value)
        if present is not value and isinstance(present, dict) and isinstance(value, dict):
            node[target[-1]] = {**value, **present}


def _dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path)
