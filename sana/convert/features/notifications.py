"""Webhooks: SimpleTuner's file of them, without the addresses and secrets in it, which have no place in a config."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sana.convert.conversion import Conversion, Keys, read_json
from sana.convert.mapping import Run
from sana.errors import ConfigError

ENV = "SANA_WEBHOOK"  # the variable that holds an address; of further ones SANA_WEBHOOK_2 and so on
LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "critical": "error"}


def convert_webhooks(conversion: Conversion, keys: Keys, run: Run) -> None:
    """Write `notifications.targets`, one for each webhook, whose address is in a variable of the environment.

    Raises:
        ConfigError: the file is missing, or is no webhook or list of them.
    """
    named = keys.present("webhook_config")
    if not named:
        return
    given = keys.take("webhook_config")
    entries, where = _entries(given, run.folder, keys.where)
    variables = []
    for number, entry in enumerate(entries):
        at, variable = f"notifications.targets.{number}", ENV if number == 0 else f"{ENV}_{number + 1}"
        is_discord = entry.get("webhook_type", "raw") == "discord"
        variables.append(variable)
        conversion.set(f"{at}.kind", "apprise" if is_discord else "webhook",
                       "Discord by apprise" if is_discord else "JSON: docs/notifications.md", *named)  # fmt: skip
        why = "put the address into this variable" + (", as discord://ID/TOKEN" if is_discord else "")
        conversion.set(f"{at}.url_env", variable, why)
        level = LEVELS.get(str(entry.get("log_level", "info")).lower(), "info")
        conversion.set(f"{at}.min_level", level, "as there")
        if entry.get("auth_token") and not is_discord:
            conversion.set(f"{at}.secret_env", f"{variable}_SECRET", "signs each request; there a token was sent")
    conversion.notes.append(f"set {', '.join(variables)}: addresses of {where} are in no config")
    for key in keys.present("webhook_reporting_interval", "webhook_progress_interval"):
        conversion.leave_out(key, keys.take(key), "in steps there; here progress_every_s of a target")


def _entries(given: Any, folder: Path, where: str) -> tuple[list[Mapping[str, Any]], str]:
    """Return the webhooks of a file, or of the value itself, and where they are."""
    if isinstance(given, str):
        places = (Path(given), folder / given, folder / Path(given).name)
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise ConfigError(
                f"{where}: webhook_config names {given}, which is not there; leave it out, or add the file"
            )
        given, where = read_json(path), path.name
    else:
        where = "webhook_config"
    entries = given if isinstance(given, list) else [given]
    if not all(isinstance(entry, Mapping) for entry in entries):
        raise ConfigError(f"{where} is no webhook: an object with webhook_type and webhook_url, or a list of them")
    return entries, where
