"""Which S3 credentials the AWS chain finds, and from where: never what they are."""

from dataclasses import dataclass

# botocore's name of a provider -> in words
_ORIGINS = {
    "env": "AWS_ACCESS_KEY_ID in the environment",
    "shared-credentials-file": "the credentials file (~/.aws/credentials)",
    "config-file": "the config file (~/.aws/config)",
    "custom-process": "credential_process of the profile",
    "assume-role": "a role of the profile",
    "assume-role-with-web-identity": "a web identity token",
    "sso": "a login by SSO",
    "login": "a login by `aws login`",
    "container-role": "the role of this container",
    "iam-role": "the role of this machine",
    "boto-config": "a file of boto",
    "ec2-credentials-file": "AWS_CREDENTIAL_FILE",
}


@dataclass(frozen=True)
class FoundCredentials:
    """`origin` says where credentials were found, "" where none were; `trouble` what is wrong with what is set."""

    origin: str
    trouble: str = ""


def find_credentials() -> FoundCredentials:
    """Go through the AWS chain, as the store does: environment, files, roles. A role asks this machine's own network.

    Half a pair, an expired login or a profile that is not there is trouble, not an error.
    """
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    try:
        found = Session().get_credentials()
        if found is None:
            return FoundCredentials("")
        frozen = found.get_frozen_credentials()  # a login or role is asked for keys now
    except BotoCoreError as error:
        return FoundCredentials("", " ".join(str(error).split())[:300])
    if not frozen.access_key or not frozen.secret_key:
        return FoundCredentials("", "a key without its secret")
    return FoundCredentials(_ORIGINS.get(found.method, str(found.method)))
