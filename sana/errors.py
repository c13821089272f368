"""The one family of errors that a user is meant to read: one clear message, no traceback."""


class SanaError(Exception):
    """What was got, what was needed and what to do, in a few lines."""


class ConfigError(SanaError):
    """The config, or what it asks for, is wrong: trying again will not help."""


class RefusedError(SanaError):
    """More clips were refused than the data set allows, or none is left: trying again will not help."""


def remedy(*, deep: bool) -> str:
    """Say how what is damaged or gone under a root is made again, and only that; `deep`: where only a digest tells it.

    `--force STAGE` makes everything again, and in a pool of its own: the next run without it reads the damaged one.
    """
    return f"make it again: sana verify CONFIG{' --deep' * deep} --withdraw, then: sana run CONFIG"
