"""Errors of S3 servers, sorted by cause: the object, the server, or the caller's rights."""

import re

import urllib3
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

from stablerep.errors import NotFound, StableRepError, StoreError, StoreRefused, TornObject, Unavailable

MISSING_CODES = frozenset({"NoSuchKey", "NoSuchBucket", "NoSuchObject"})
BUSY_CODES = frozenset({
    "SlowDown", "SlowDownRead", "SlowDownWrite", "ServiceUnavailable", "InternalError", "OperationAborted",
    "RequestTimeout", "TooManyRequests", "Throttling", "RequestLimitExceeded", "XMinioServerNotInitialized",
})  # fmt: skip
FULL_CODES = frozenset({"XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded"})
REFUSED_CODES = frozenset({
    "AccessDenied", "AllAccessDisabled", "AccountProblem", "InvalidAccessKeyId", "SignatureDoesNotMatch",
    "ExpiredToken", "ExpiredTokenException", "InvalidToken", "InvalidTokenId", "TokenRefreshRequired",
    "RequestTimeTooSkewed", "RequestExpired", "AuthorizationHeaderMalformed", "PermanentRedirect", "Redirect",
    "BadRequest",  # the client's own word for a HEAD refused with 400, as AWS does for an expired token
})  # fmt: skip
REFUSED_STATUSES = frozenset({401, 402, 403, 407})
FULL_STATUS = 507


class Refused(Exception):
    """As `S3Error`, for a request made without the client."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(status, code, message)
        self.status = status
        self.code = code
        self.message = message


def refusal(status: int, body: bytes) -> Refused:
    """The error of a presigned request, parsed from the response's XML."""
    code = re.search(rb"<Code>([^<]*)</Code>", body)
    message = re.search(rb"<Message>([^<]*)</Message>", body)
    return Refused(
        status,
        code.group(1).decode(errors="replace") if code else f"HTTP {status}",
        message.group(1).decode(errors="replace") if message else "",
    )


def named(error: Exception, *, key: str, url: str, endpoint: str) -> StableRepError:
    """The error of this library that one of the client, of urllib3 or of the system means.

    Busy servers and broken connections are Unavailable; full disks, wrong or expired credentials and policies
    are StoreRefused: none of them concerns the object. All others are StoreError.
    """
    where = f"{url} at {endpoint}"
    if isinstance(error, S3Error):
        return _answered(error.response.status, error.code or "", error.message or "", key, where)
    if isinstance(error, Refused):
        return _answered(error.status, error.code, error.message, key, where)
    if isinstance(error, urllib3.exceptions.HTTPError | ConnectionError | TimeoutError):
        return Unavailable(
            f"no object store answered at {endpoint} (for {key}): {_last_line(error)}; {_advice(error)}"
        )
    if isinstance(error, ServerError | InvalidResponseError):  # a proxy's page, or an answer without a text
        found = re.search(r"(?:status|Response) code:? (\d+)", str(error))
        status = int(found.group(1)) if found else 0
        return _answered(status, f"HTTP {status}", "no S3 answer", key, where)
    if isinstance(error, MinioException):
        return StoreError(f"{key}: {endpoint} gave no S3 answer: {_last_line(error)}")
    return StoreError(f"{key}: {error}")


def _answered(status: int, code: str, message: str, key: str, where: str) -> StableRepError:
    if code in MISSING_CODES:
        return NotFound(f"there is no object {key} in {where}")
    if code == "InvalidRange":
        return TornObject(f"{key} in {where} ends before the range that was asked for")
    if code in FULL_CODES or status == FULL_STATUS:
        return StoreRefused(f"{key}: {where} is full ({code}): {message}; make room there")
    if code in REFUSED_CODES or status in REFUSED_STATUSES:
        return StoreRefused(
            f"{key}: {where} answered {code}: {message}; check the access key, the secret key, whether they "
            "have expired, their policy and the region"
        )
    if code in BUSY_CODES or status == 429 or (status >= 500 and status != 501):
        return Unavailable(f"{where} is busy ({code}): {message}; try again")
    return StoreError(f"{key}: {where} answered {code}: {message}")


def _advice(error: BaseException) -> str:
    reason = error.reason if isinstance(error, urllib3.exceptions.MaxRetryError) else error
    if isinstance(reason, urllib3.exceptions.SSLError):
        return "STABLEREP_S3__CA_FILE names the certificates of a private authority"
    return "check STABLEREP_S3__ENDPOINT and that the server runs"


def _last_line(error: BaseException) -> str:
    if isinstance(error, urllib3.exceptions.MaxRetryError) and error.reason is not None:
        error = error.reason  # its own text has the URL, and with it a signature
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
