"""What `sana promote` asks of MLflow."""

from sana.comparison.promotion import candidate_of
from sana.context import Context
from tasks.tracking.registry import Registered, Registry, registered_name
from tasks.tracking.tracker import Tracker


def promote_in_mlflow(context: Context, fingerprint: str, *, dry_run: bool, forced: str) -> Registered:
    """Decide on a trained model, and move the alias unless it is a dry run, which changes nothing.

    Raises:
        TrackerAwayError: MLflow does not take it.
        SanaError: the model is gone.
    """
    tracker = Tracker(context.config, context.store, "", {}, quiet=True)
    candidate = candidate_of(context.store, fingerprint)
    run_id = tracker.find_run("train", fingerprint)
    name = registered_name(context.config)

    def call(client: object) -> Registered:
        registry = Registry(client, name, context.store)  # type: ignore[arg-type]
        if not dry_run:
            return registry.promote(candidate, run_id, forced=forced)
        decision, champion = registry.decide(candidate)
        return Registered(name, registry.version_of(fingerprint), decision, str(champion.version) if champion else "")

    return tracker.ask(call)
