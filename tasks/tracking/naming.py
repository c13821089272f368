"""What runs are called in trackers, so that people can tell them apart."""

from datetime import UTC, datetime

from sana.config.pipeline import Config

MAX_CHARS = 200


def run_name(config: Config, template: str, *, title: str, key: str, started_s: float) -> str:
    """Fill in a template of the config. `title` is the config's name, `started_s` Unix time in seconds."""
    started = datetime.fromtimestamp(started_s, UTC)
    ids = [dataset.id for dataset in config.download.enabled]
    filled = template.format(
        config=title or "pipeline",
        method=config.train.method.name,
        dataset="+".join(ids[:3]) + ("" if len(ids) <= 3 else f"+{len(ids) - 3} more"),
        date=f"{started:%Y-%m-%d}",
        time=f"{started:%H:%M}",
        key=key[:8],
    )
    return "".join(char if char.isprintable() else " " for char in filled)[:MAX_CHARS].strip() or key[:8]


def stage_name(stage: str, fingerprint: str, *, title: str) -> str:
    """Name the run of a stage's artifact, which several configs may share: after the first that made it."""
    return f"{stage}-{fingerprint[:8]} {title}".strip()[:MAX_CHARS]
