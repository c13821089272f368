"""Credentials of S3 and the hub: whether there are any, and from where; they are never shown."""

import os

import httpx

from flows.doctor.finding import Finding, fail, ok, warn
from flows.doctor.subject import Subject
from sana.data.sources import hub
from sana.store_credentials import FoundCredentials, find_credentials
from sana.wording import first_of, one_line, without_password

HUB_TIMEOUT_S = 6.0


def check_s3(subject: Subject) -> Finding:
    """Credentials of the AWS chain, and the endpoint."""
    return judge_s3(find_credentials(), subject.s3_places, os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get(
        "AWS_ENDPOINT_URL"
    ))  # fmt: skip


def judge_s3(found: FoundCredentials, needed_by: list[str], endpoint: str | None) -> Finding:
    """Judge what the chain found; `needed_by` are the settings that name a place in S3."""
    where = f"; endpoint {without_password(endpoint)}" if endpoint else ""
    by = first_of(needed_by[:2], len(needed_by))
    remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    if found.trouble:
        verdict = fail if needed_by else warn
        return verdict(f"{found.trouble}{where}", f"{remedy}, and no other AWS_ variable")
    if not found.origin:
        return (
            fail(f"none, and {by} is in S3{where}", remedy) if needed_by else ok(f"none; only s3:// needs some{where}")
        )
    return ok(f"present, from {found.origin}{where}")


def check_hub(subject: Subject) -> Finding:
    """The token of the hub, and whether the hub takes it."""
    needed_by = subject.hub_places
    token, origin = hub.token_and_origin()
    if hub.is_offline():
        return ok(f"HF_HUB_OFFLINE is set: only what is here is used; token {'present' if token else 'not set'}")
    endpoint = hub.endpoint()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        status = httpx.get(f"{endpoint}/api/whoami-v2", headers=headers, timeout=HUB_TIMEOUT_S).status_code
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        text = one_line(error, with_type=True, most=120)
        text = text.replace(token, "***") if token else text
        return judge_hub(token and origin, without_password(endpoint), None, needed_by, without_password(text))
    return judge_hub(token and origin, without_password(endpoint), status, needed_by)


def judge_hub(origin: str, endpoint: str, status: int | None, needed_by: list[str] | None, error: str = "") -> Finding:
    """Judge the hub's answer to whom the token of `origin` ("": none) belongs; `status` None: there was none.

    `needed_by` are the settings that name something on the hub; None: there is no config.
    """
    token = f"token present, from {origin}" if origin else "no token"
    if status is None:
        said = f"{token}; {endpoint} is not reached ({error})"
        if needed_by == []:
            return ok(f"{said}, and the config needs nothing of it")
        remedy = "check the network and HF_ENDPOINT; HF_HUB_OFFLINE=1 works with what is already here"
        return warn(f"{said}{f', and {first_of(needed_by[:2], len(needed_by))} is on it' if needed_by else ''}", remedy)
    if status >= 500 or status == 429:
        return warn(f"{token}; {endpoint} is not ready ({status})", "try again later")
    if origin and status in (401, 403):
        return fail(f"{token}; {endpoint} does not take it ({status})", "make a new one on its page of access tokens")
    if not origin:
        return ok(f"{endpoint} answers; no token, which only private or gated repositories need")
    return ok(f"{token}; {endpoint} {'takes it' if status == 200 else f'answers ({status})'}")
