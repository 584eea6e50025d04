"""Where captions may be read from besides the store: allowed URLs, and a reader for each of their schemes.

http(s) is read by `HttpObjects`, s3 with the credentials and the endpoint of the store's own settings, hf by
huggingface_hub. No other protocol is reachable, whatever a URL says.
"""

from dataclasses import dataclass, field
from typing import Protocol

from stablerep.captions.remote.http import HttpObjects
from stablerep.captions.remote.urls import AllowedUrls, SourceUrl
from stablerep.errors import InvalidInput
from stablerep.storage.interface import ObjectInfo, S3Access, Store
from stablerep.storage.open import open_store

SIZE_LIMIT = 64 << 30


class Objects(Protocol):
    """What reading captions needs of a store, or of what stands behind URLs."""

    def stat(self, key: str) -> ObjectInfo | None:
        """Size and ETag, or None where there is no such object."""

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes. Raises NotFound, and TornObject where the object ends before."""


@dataclass(frozen=True)
class Remote:
    """Which URLs are read, and how.

    Args:
        private_networks: whether http(s) may lead to private addresses.
        s3: how any bucket is reached; None: by the settings of the environment.
        size_limit: of a file, in bytes.
    """

    allowed: AllowedUrls = field(default_factory=AllowedUrls)
    private_networks: bool = False
    s3: S3Access | None = None
    size_limit: int = SIZE_LIMIT

    def open_web(self, known: ObjectInfo | None = None) -> HttpObjects:
        """Reads http(s) URLs; for one thread, to be closed. The file that is `known` must be the same."""
        return HttpObjects(
            self._check_web,
            private_networks=self.private_networks,
            size_limit=self.size_limit,
            known=known,
        )

    def open_bucket(self, bucket: str) -> Store:
        """A whole bucket, where `Remote` says buckets are. Raises InvalidInput."""
        try:
            return open_store(f"s3://{bucket}", s3=self.s3)
        except InvalidInput as error:
            raise InvalidInput(f"s3://{bucket} cannot be read: {error}", field="uri") from error

    def _check_web(self, text: str) -> SourceUrl:
        url = self.allowed.check(text)
        if url.scheme not in ("http", "https"):
            raise InvalidInput(f"{url.shown} was redirected to; only http(s) is followed", field="uri")
        return url


STORE_ONLY = Remote()
