"""Errors of storage in one line: the object, the cause and the fix."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sana.errors import FULL, DiskFullError, SanaError
from sana.wording import one_line

_MISSING = {"ENOENT", "EISDIR", "ENOTDIR", "NoSuchKey", "404"}
_NO_CONNECTION = "no connection: check that AWS_ENDPOINT_URL is right, the server is up, no firewall is between"
_EXPIRED = "the credentials have expired: get new ones, then run again"
_BUSY = "the store is overloaded or failing, and stayed so through all retries: run again later"
_BROKEN = "the connection broke off in all retries: check the network, then run again"
_NO_ANSWER = "no answer in time in any retry: the server hangs, or a firewall drops its answers"
_NO_PERMISSION = "no permission: let this user or key read, write, list and delete here, or choose another root"
TRUNCATED = "the object ends before the bytes asked for: it is truncated, or the index belongs to another object"
# what S3 servers that run on disks of their own (MinIO, Ceph) answer when those are full
S3_FULL = ("QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage", "507")
CAUSES = {  # errno name, S3 error code or exception name -> what happened and what to do
    "ENOSPC": "the disk is full: free some space or choose another root, then run again",
    "EDQUOT": "the disk quota is used up: free some space or choose another root, then run again",
    **dict.fromkeys(S3_FULL, "the server's disk or this bucket's quota is full: make room there, then run again"),
    "EFBIG": "larger than a file may be for this process or disk: raise `ulimit -f`",
    "EACCES": _NO_PERMISSION,
    "EPERM": "not permitted: an immutable file, or a file system without hard links; choose another root",
    "EROFS": "the file system is read-only: remount it or choose another root",
    "EEXIST": "there is a file where a folder is needed, or a folder where the file goes: move it away",
    "InvalidRange": TRUNCATED,
    "NoCredentialsError": "no S3 credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "PartialCredentialsError": "half a pair of keys: set both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or neither",
    "ProfileNotFound": "no such profile of AWS: set AWS_PROFILE to one of ~/.aws/config, or unset it",
    "InvalidAccessKeyId": "the endpoint does not know this access key: check AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL",
    "SignatureDoesNotMatch": "the secret key is wrong: check AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "InvalidToken": "AWS_SESSION_TOKEN does not belong to this access key: set all three again, then run again",
    "400": f"refused without a reason, as a HEAD has no body; mostly {_EXPIRED}",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it, then run again",
    "AccessDenied": _NO_PERMISSION,
    "403": _NO_PERMISSION,  # a HEAD has no body, so no better code
    "NoSuchBucket": "the bucket does not exist: create it, or check the root and AWS_ENDPOINT_URL",
    "EndpointConnectionError": _NO_CONNECTION,
    "ConnectTimeoutError": _NO_CONNECTION,
    "FSTimeoutError": _NO_CONNECTION,
    **dict.fromkeys(("SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "500", "503"), _BUSY),
    **dict.fromkeys(
        ("ClientPayloadError", "AioReadTimeoutError", "IncompleteReadError", "ConnectionClosedError", "ECONNRESET"),
        _BROKEN,
    ),
    "ReadTimeoutError": _NO_ANSWER,
}


class StoreError(SanaError):
    """Storage refused a request: one line with the object, the cause and the fix."""


class StoreAwayError(StoreError):
    """Storage does not answer, or is busy: it may answer later."""


class StoreFullError(StoreError, DiskFullError):
    """There is no room: trying again will not help."""


@contextmanager
def clear_errors(uri: str, *errors: type[Exception], note: str = "", writing: bool = False) -> Iterator[None]:
    """Turn what the system or botocore raises into FileNotFoundError or one clear StoreError."""
    try:
        yield
    except errors as error:
        code = error_code(error)
        if code in _MISSING and not writing:
            raise FileNotFoundError(errno.ENOENT, "no such object in the store", uri) from error
        cause = CAUSES.get(code) or one_line(error)
        kind = StoreFullError if code in FULL or code in S3_FULL else StoreError
        if cause in (_NO_CONNECTION, _NO_ANSWER, _BUSY, _BROKEN):
            kind = StoreAwayError
        raise kind(f"{uri}{note}: {cause} ({code})") from error


def error_code(error: Exception) -> str:
    """Return S3's code, the errno's name, or, where there is neither, the exception's."""
    response = _response(error)
    if response:
        return str(response["Error"].get("Code", "unknown"))
    if isinstance(error, OSError) and error.errno:
        return errno.errorcode.get(error.errno, str(error.errno))
    return type(error).__name__


def http_status(error: Exception) -> int | None:
    """Return the HTTP status of S3's answer; None where there was none."""
    response = _response(error)
    return int(response["ResponseMetadata"]["HTTPStatusCode"]) if response else None


def _response(error: Exception) -> Any:
    return getattr(error.__cause__ or error, "response", None)  # s3fs keeps botocore's error as the cause
