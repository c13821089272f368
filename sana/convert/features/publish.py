"""Pushing to the hub: `publish`, which is a stage of its own."""

from sana.convert.conversion import Conversion, Keys
from sana.convert.mapping import Run

KEYS = "push_to_hub push_checkpoints_to_hub hub_model_id model_card_private model_card_safe_for_work model_card_note"


def convert_publish(conversion: Conversion, keys: Keys, run: Run) -> None:
    """Write `publish` where the model is pushed and its repository is named owner/name."""
    asked, name = keys.flag("push_to_hub"), keys.text("hub_model_id").strip("/")
    checkpoints = keys.flag("push_checkpoints_to_hub")
    if not asked or name.count("/") != 1:
        why = "of no effect without push_to_hub: true" if not asked else (
            "publish.to needs the repository as hf://owner/name; there the owner is whoever is logged in"
        )  # fmt: skip
        for key in keys.present(*KEYS.split()):
            conversion.leave_out(key, keys.take(key), why)
        return
    conversion.set("publish.to", f"hf://{name}", "by the token of the environment or the login",
                   *keys.present("push_to_hub", "hub_model_id"))  # fmt: skip
    conversion.set("publish.what", "checkpoints" if checkpoints else "final",
                   "checkpoints: each that is kept too, after training",
                   *keys.present("push_checkpoints_to_hub"))  # fmt: skip
    conversion.set("publish.private", keys.flag("model_card_private", True), "nothing is public unasked",
                   *keys.present("model_card_private"))  # fmt: skip
    if keys.has("model_card_note"):
        conversion.set("publish.description", keys.text("model_card_note"), "below the card's title", "model_card_note")
    for key in keys.present("model_card_safe_for_work"):
        conversion.leave_out(key, keys.take(key), "the card says what is known of the run alone; see publish.tags")
