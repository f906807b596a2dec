"""Each error of boto3, as the exception that carries the reply to the client: `translated`.

error                                            exception
-----------------------------------------------  --------------------------------------------------------
the object does not exist                        FileNotFoundError
the object changed meanwhile (If-Match)          ObjectChanged, 450
the multipart upload does not exist any more     UploadGone, 450
too many requests, store is overloaded           StoreFailed, 450
object is archived                               Refusal, 550
the store does not know the operation            NotSupported, 550
the object ends before the range                 NotInRange, 554
the request has no Content-MD5                   ChecksumRequired, 451
object is too large; key is too long             Refusal, 552; 553
no room, or a quota of the store                 Refusal, 452
credentials, clock, bucket, network, all others  StoreFailed, 451
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

from botocore import exceptions
from botocore.parsers import ResponseParserError

from ftpsd.protocol.replies import Refusal


class ObjectChanged(Refusal):
    """The object is not the one that was expected. `was_repeated`: an earlier attempt may have changed it."""

    def __init__(self, was_repeated: bool = False) -> None:
        super().__init__(450, "The file was changed meanwhile: try again.")
        self.was_repeated = was_repeated


class UploadGone(Refusal):
    """The multipart upload was completed or aborted, or one of its parts was replaced."""

    def __init__(self) -> None:
        super().__init__(450, "Another upload has ended this one: try again.")


class StoreFailed(Refusal):
    """The store cannot be used now. `why` is for the administrator, and never sent to clients.

    `kind` is the same for all keys.
    """

    def __init__(self, code: int, text: str, why: str, kind: str = "") -> None:
        super().__init__(code, text)
        self.why = why
        self.kind = kind or why


class Denied(StoreFailed):
    """The credentials do not permit a request."""


class NotSupported(Refusal):
    """The store does not know an operation, or an argument of it. Others may work."""


class NotInRange(Refusal):
    """The object ends before the range that is requested."""


class ChecksumRequired(Refusal):
    """The bucket requires Content-MD5, or another checksum beside the signature (Object Lock)."""


_BUSY = "Storage busy: try again later."
FAILED = "Storage not available: try again later."

_MISSING = frozenset({"NoSuchKey", "404", "NotFound"})
_CHANGED = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "ConditionNotMet"})
_GONE = frozenset({"NoSuchUpload", "InvalidPart", "InvalidPartOrder"})
_BEYOND = frozenset({"InvalidRange", "416"})
_NOT_SUPPORTED = frozenset({"NotImplemented", "501"})
_DENIED = frozenset({"AccessDenied", "403"})
_THROTTLED = frozenset(
    {
        "SlowDown",
        "ServiceUnavailable",
        "503",
        "429",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "TooManyRequestsException",
        "RequestLimitExceeded",
        "BandwidthLimitExceeded",
        "OperationAborted",
    }
)

#: Errors that tell of a checksum which was sent.
_DAMAGED = frozenset({"BadDigest", "InvalidDigest"})

#: Replies to errors that the client can do something about.
_REPLIES: dict[str, tuple[int, str]] = {
    "InvalidObjectState": (550, "The object is archived: restore it in the object store first."),
    "EntityTooLarge": (552, "File too large for the object store."),
    "KeyTooLongError": (553, "Path too long for the object store."),
    "QuotaExceeded": (452, "Insufficient storage."),
    "InsufficientStorage": (452, "Insufficient storage."),
    "507": (452, "Insufficient storage."),
}

#: What an administrator has to do.
_HINTS: dict[str, str] = {
    "NoSuchBucket": "the bucket does not exist",
    "InvalidAccessKeyId": "the access key is not known",
    "SignatureDoesNotMatch": "the secret access key is wrong",
    "ExpiredToken": "the credentials have expired",
    "InvalidToken": "the credentials are not valid",
    "AccessDenied": "the credentials do not permit it",
    "403": "the credentials do not permit it",
    "401": "the credentials are wrong",
    "RequestTimeTooSkewed": "the clock of this machine and that of the store differ",
    "PermanentRedirect": "the bucket is in another region",
    "301": "the bucket is in another region",
    "AuthorizationHeaderMalformed": "the region is wrong",
}


def code_of(error: exceptions.ClientError) -> str:
    """Return the code of an answer of the store: a word, or the status of an answer without a body."""
    answer: Mapping[str, Mapping[str, object]] = error.response
    return str(answer.get("Error", {}).get("Code", ""))


def _was_repeated(error: exceptions.ClientError) -> bool:
    answer: Mapping[str, Mapping[str, object]] = error.response
    return bool(answer.get("ResponseMetadata", {}).get("RetryAttempts"))


def translated(error: Exception, operation: str) -> Exception:
    """Return the exception for an error of boto3 (see above)."""
    if isinstance(error, exceptions.ClientError):
        if "content-md5" in str(error).lower() and code_of(error) not in _DAMAGED:
            return ChecksumRequired(451, FAILED)
        if code_of(error) in _CHANGED:
            return ObjectChanged(_was_repeated(error))
        return _answered(code_of(error), operation)
    if isinstance(error, exceptions.BotoCoreError | ResponseParserError):  # the latter is no BotoCoreError
        # The text may contain the URL, which has no secret: signatures are in the headers.
        return StoreFailed(451, FAILED, f"{operation}: {error}", f"{operation}: {type(error).__name__}")
    # Of the connection, while a body is read or sent; or of an answer that boto3 does not understand.
    if isinstance(error, OSError | ValueError | LookupError | TypeError | AttributeError):
        return StoreFailed(451, FAILED, f"{operation}: {error}", f"{operation}: {type(error).__name__}")
    return error


def _answered(code: str, operation: str) -> Exception:
    if code in _MISSING:
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    if code in _GONE:
        return UploadGone()
    if code in _THROTTLED:
        return StoreFailed(450, _BUSY, f"{operation}: {code}")
    if code in _REPLIES:
        return Refusal(*_REPLIES[code])
    if code in _BEYOND:
        return NotInRange(554, "The file has no bytes there.")
    if code in _NOT_SUPPORTED:
        return NotSupported(550, "The object store does not support that.")
    hint, kind = _HINTS.get(code), Denied if code in _DENIED else StoreFailed
    code = code or "an error without a code"  # boto3 1.26 does not read the error inside of a status 200
    return kind(451, FAILED, f"{operation}: {code}" + (f", {hint}" if hint else ""))
