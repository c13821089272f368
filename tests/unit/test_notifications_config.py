"""Targets of notifications: addresses and secrets come by environment or file, and are never shown."""

import logging
from pathlib import Path

import pytest
from click.testing import CliRunner

from flows.cli.main import cli
from sana.config.load import load_config
from sana.delivery.notification import Notification
from sana.delivery.secrets import Redactor, read_secret, read_url
from sana.errors import ConfigError
from tasks.tracking.values import pipeline_key
from tests.loopback_servers import receiver

SECRET = "https://hooks.example.com/services/T0000/sEcReT-tOkEn-0123456789"
TARGET = "notifications.targets=[{url_env: SANA_WEBHOOK}]"


def said_of(*overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_config("configs/demo.yaml", overrides)
    return str(error.value)


@pytest.mark.parametrize(
    "target, says",
    [
        (f"{{url_env: '{SECRET}'}}", "name of an environment variable"),
        (f"{{url_file: '{SECRET}'}}", "path of a file"),
        ("{url_env: A, secret_env: sEcReT-tOkEn-0123456789}", "name of an environment variable"),
        ("{url_env: A, secret_env: sEcReTtOkEn0123456789}", "name of an environment variable"),
        ("{url_env: AKIASECRETTOKEN01234}", "name of an environment variable"),
        ("{url_env: A, secret_file: sEcReT-tOkEn-0123456789}", "path of a file"),
        (f"{{url: '{SECRET}'}}", "unknown key"),
        (f"{{kind: '{SECRET}', url_env: A}}", "is none of webhook, apprise"),
        (f"{{url_env: ['{SECRET}']}}", "a text is needed"),
        (f"{{url_env: {{x: '{SECRET}'}}}}", "a text is needed"),
        (f"'{SECRET}'", "keys and values below it are needed"),
        (f"{{url_env: A, events: '{SECRET}'}}", "a list is needed"),
        (f"{{url_env: A, events: ['{SECRET}']}}", "is none of run, stage"),
        (f"{{url_env: A, timeout_s: '{SECRET}'}}", "a number is needed"),
        ("{kind: webhook}", "by one of url_env and url_file"),
        ("{url_env: A, url_file: /a}", "by one of url_env and url_file"),
        ("{kind: apprise, url_env: A, secret_env: B}", "are for kind: webhook"),
        ("{url_env: A, secret_env: B, secret_file: /b}", "keep one"),
    ],
)
def test_what_a_target_lacks_is_said_and_a_secret_is_not_shown(target: str, says: str) -> None:
    said = said_of(f"notifications.targets=[{target}]")
    assert says in said and "notifications.targets" in said
    assert not any(part in said for part in ("sEcReT", "SECRETTOKEN", "hooks.example"))


@pytest.mark.parametrize(
    "overrides",
    [
        [f"notifications.targets={SECRET}"],
        [f"notifications={SECRET}"],
        [f"notifications.targets.0.url_env={SECRET}"],
        [f"notifications.targets.0={SECRET}"],
        [f"notifications.url={SECRET}"],
        [f"notifications={SECRET}", "notifications.targets=[]"],
        [f"notifications.targets=[{{url_env: '{SECRET}'"],
        [TARGET, f"notifications.targets.0.url_env={SECRET}"],
        [TARGET, f"notifications.targets.0.url_env={SECRET}", "notifications.targets.0.url_env.x=1"],
    ],
)
def test_an_override_that_holds_a_secret_is_not_shown(overrides: list[str]) -> None:
    assert "sEcReT" not in said_of(*overrides)


def test_it_is_in_no_hash_and_no_pipeline_key() -> None:
    plain, told = load_config("configs/demo.yaml"), load_config("configs/demo.yaml", [TARGET])
    assert pipeline_key(plain) == pipeline_key(told) and told.notifications.targets[0].kind == "webhook"


@pytest.mark.parametrize(
    "content, says",
    [
        (None, "cannot be read: No such file"),
        (b"", "has no line"),
        (b"a\nb\n", "has more than one line"),
        (b"\xff\xfe", "holds no text"),
        (b" https://x/y \n", ""),
    ],
)
def test_a_file_holds_one_line(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "address"
    if content is not None:
        path.write_bytes(content)
    (target,) = load_config(
        "configs/demo.yaml", [f"notifications.targets=[{{url_env: A_B, secret_file: {path}}}]"]
    ).notifications.targets
    assert read_url(target, {"A_B": " https://x\n"}) == "https://x"
    if says:
        with pytest.raises(ConfigError, match=says) as error:
            read_secret(target)
        assert str(path) not in str(error.value)
    else:
        assert read_secret(target) == "https://x/y"
    with pytest.raises(ConfigError, match="A_B, which url_env names, is not set here"):
        read_url(target, {"A_B": " "})


@pytest.mark.parametrize(
    "text",
    [
        f"could not reach {SECRET}",
        "POST /services/T0000/sEcReT-tOkEn-0123456789 failed",
        "the key is my-sEcReT-key",
        "https://ann:sEcReT@host/x",
        "Bearer hf_sEcReT",
    ],
)
def test_secrets_are_taken_out_of_texts(text: str) -> None:
    redact = Redactor([SECRET, "my-sEcReT-key"], {"HF_TOKEN": "hf_sEcReT"})
    assert "sEcReT" not in redact(text) and redact("a plain text /services/") == "a plain text /services/"
    note = Notification("run", "failed", "error", text, {"name": text}, error=text, files={text: text})
    assert b"sEcReT" not in note.payload(redact) and "sEcReT" not in note.words(redact)


@pytest.mark.parametrize(
    "event, level, events, least, told",
    [
        ("run", "info", "[run]", "info", True),
        ("stage", "info", "[run]", "info", False),
        ("stage", "error", "[run, error]", "info", True),
        ("stage", "error", "[run]", "info", False),
        ("stage", "debug", "[stage]", "info", False),
        ("stage", "debug", "[stage]", "debug", True),
        ("validation", "warning", "[validation]", "error", False),
        ("test", "info", "[run]", "info", True),
    ],
)
def test_a_target_is_told_what_it_asks_for(event: str, level: str, events: str, least: str, told: bool) -> None:
    override = f"notifications.targets=[{{url_env: A, events: {events}, min_level: {least}}}]"
    (target,) = load_config("configs/demo.yaml", [override]).notifications.targets
    assert Notification(event, "x", level, "title", {}).is_for(target) is told  # type: ignore[arg-type]


def test_notify_tries_every_target(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    targets = (
        "{url_env: GOOD}, {url_env: BAD}, {url_env: UNSET}, {kind: apprise, url_env: POST}, {url_env: NONE_AT_ALL}"
    )
    with receiver() as (url, got), receiver(403) as (bad, _):
        monkeypatch.setenv("GOOD", f"{url}/sEcReT-tOkEn-0123456789")
        monkeypatch.setenv("BAD", f"{bad}/sEcReT-tOkEn-0123456789")
        monkeypatch.setenv("POST", f"{url.replace('http', 'json')}/sEcReT-tOkEn-0123456789")
        monkeypatch.setenv("NONE_AT_ALL", "sEcReT")
        arguments = ["notify", "configs/demo.yaml", "-s", f"notifications.targets=[{targets}]"]
        result = CliRunner().invoke(cli, arguments)
    lines = result.output.splitlines()
    assert result.exit_code == 1 and [line.partition("): ")[2] for line in lines] == [
        "sent",
        "failed: it answers 403",
        "failed: the environment variable UNSET, which url_env names, is not set here",
        "sent",
        "failed: the address of a webhook is not one: it begins with http:// or https:// and a host",
    ]
    assert len(got) == 2 and all(request.path == "/sEcReT-tOkEn-0123456789" for request in got)
    assert "sEcReT" not in result.output + caplog.text
    nobody = CliRunner().invoke(cli, ["notify", "configs/demo.yaml"])
    assert "has no notifications.targets" in str(nobody.exception)
