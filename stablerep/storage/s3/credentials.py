"""Credentials for S3 when the settings have none: the sources that AWS tools use, in their order."""

import configparser
import os
import re
from collections.abc import Mapping
from threading import Lock
from xml.etree import ElementTree

import urllib3
from minio.credentials import AWSConfigProvider, Credentials, EnvAWSProvider, IamAwsProvider, Provider

from stablerep.errors import InvalidInput, StoreRefused

_FAILURES = (
    ValueError, KeyError, OSError, urllib3.exceptions.HTTPError, configparser.Error, ElementTree.ParseError
)  # fmt: skip
NOWHERE = (
    "an s3:// store needs credentials: set STABLEREP_S3__ACCESS_KEY and STABLEREP_S3__SECRET_KEY, or what "
    "AWS tools read (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a shared credentials file, a role)"
)


class CredentialChain(Provider):
    """The first of several places that has credentials; asked again when they are about to expire.

    The client calls `retrieve` for every request, from any thread.
    """

    def __init__(self, places: Mapping[str, Provider]) -> None:
        self._places = dict(places)
        self._lock = Lock()
        self._found: Credentials | None = None

    def retrieve(self) -> Credentials:
        """Raises StoreRefused, naming for each source why it had none."""
        with self._lock:
            if self._found is None or self._found.is_expired():
                self._found = self._look()
            return self._found

    def _look(self) -> Credentials:
        problems = []
        for place, provider in self._places.items():
            try:
                return provider.retrieve()
            except _FAILURES as error:
                problems.append(f"{place}: {_without_urls(error)}")
        # Not `from`: the address of a refused request holds the token that it was made with.
        raise StoreRefused(f"no credentials for S3 ({'; '.join(problems)}); {NOWHERE}") from None


def find_credentials(*, on_aws: bool) -> Provider:
    """The sources of credentials on this machine, by its environment; sends no request yet.

    Only for a store `on_aws` is the machine itself asked for its role. Raises InvalidInput where there is no
    place at all.
    """
    environment = os.environ
    places: dict[str, Provider] = {}
    if environment.get("AWS_ACCESS_KEY_ID") or environment.get("AWS_ACCESS_KEY"):
        places["environment"] = EnvAWSProvider()
    if environment.get("AWS_WEB_IDENTITY_TOKEN_FILE"):  # IRSA
        places["web identity"] = _role(environment.get("AWS_ENDPOINT_URL_STS"))
    else:
        shared = AWSConfigProvider()
        if _readable(shared):
            places["shared credentials file"] = shared
        if any(environment.get(f"AWS_CONTAINER_CREDENTIALS_{kind}_URI") for kind in ("RELATIVE", "FULL")):
            places["container role"] = _role()  # ECS, EKS Pod Identity
        elif on_aws and environment.get("AWS_EC2_METADATA_DISABLED", "").lower() != "true":
            places["machine role"] = _role()
    if not places:
        raise InvalidInput(NOWHERE, field="s3.access_key")
    return CredentialChain(places)


def _role(endpoint: str | None = None) -> Provider:
    """The client's own pool would wait for minutes where no such service is."""
    pool = urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=2.0, read=10.0), retries=urllib3.Retry(total=1, backoff_factor=0.2)
    )
    return IamAwsProvider(custom_endpoint=endpoint or None, http_client=pool)


def _readable(provider: Provider) -> bool:
    try:
        provider.retrieve()
    except _FAILURES:
        return False
    return True


def _without_urls(error: BaseException) -> str:
    """The error in one line, addresses cut down to their hosts: the rest of one may be a token."""
    if isinstance(error, urllib3.exceptions.MaxRetryError) and error.reason is not None:
        error = error.reason
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"(https?://[^/?\s]+)\S*", r"\1", line)
