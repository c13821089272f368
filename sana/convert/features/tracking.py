"""Trackers: W&B and TensorBoard are told beside MLflow; other ones are left out."""

from sana.convert.conversion import Conversion, Keys
from sana.convert.mapping import Run

KEYS = "report_to tracker_run_name"
_KNOWN = ("wandb", "tensorboard")


def convert_trackers(conversion: Conversion, keys: Keys, run: Run) -> None:
    """Write `tracking.also` and `tracking.run_name`; every run is recorded in MLflow as well."""
    if named := keys.present("tracker_run_name"):
        name = keys.text("tracker_run_name").replace("{", "{{").replace("}", "}}")
        if name.strip() and name.isprintable():
            conversion.set("tracking.run_name", name, "may have {config}, {method}, {date} and so on", *named)
    if not (named := keys.present("report_to")):
        return
    given = keys.take("report_to")
    asked = [str(one).strip().lower() for one in (given if isinstance(given, list) else str(given or "").split(","))]
    if "all" in asked:
        asked = list(_KNOWN)
    found = [kind for kind in _KNOWN if kind in asked]
    for number, kind in enumerate(found):
        why = "beside MLflow: pip install 'sana-video-pipeline[trackers]'" if number == 0 else "the same"
        conversion.set(f"tracking.also.{number}.kind", kind, why, *(named if number == 0 else []))
    if left := [one for one in asked if one not in (*_KNOWN, "none", "")]:
        conversion.notes.append(f"report_to {', '.join(left)} is not told: there are MLflow, {' and '.join(_KNOWN)}")
    if not found:
        conversion.leave_out("report_to", given, "every run is recorded in MLflow, see tracking")
