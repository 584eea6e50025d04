"""URLs besides the store's that the gateway reads captions from, and the check of what a request names."""

from urllib.parse import unquote

from stablerep.captions.remote.access import Remote
from stablerep.captions.remote.urls import AllowedUrls
from stablerep.config.settings import Settings
from stablerep.errors import InvalidInput
from stablerep.jobs.planning.sources import check_source_uri
from stablerep.storage.interface import Store

MAX_URI = 2000


def remote_sources(settings: Settings) -> Remote:
    """As the settings say. Raises InvalidInput for a beginning that is no URL."""
    gateway = settings.gateway
    try:
        allowed = AllowedUrls(gateway.source_urls)
    except InvalidInput as error:
        text = str(error).removeprefix(f"{error.field}: ")
        raise InvalidInput(text, field="gateway.source_urls") from error
    return Remote(allowed, gateway.source_private_networks, settings.s3, gateway.upload_limit_bytes)


def source_uri(store: Store, uri: str, remote: Remote) -> tuple[str, str]:
    """The URI as a job keeps it (a key if it is below the store's URL), and the name that gives its format.

    Raises:
        InvalidInput: it names nothing that this gateway reads; `field` is "uri".
    """
    if not uri:
        raise InvalidInput("give either a uri or an upload_id")
    if len(uri) > MAX_URI:
        raise InvalidInput(f"is longer than {MAX_URI} characters", field="uri")
    below = f"{store.url.rstrip('/')}/"
    if uri.startswith(below):
        key = uri.removeprefix(below)
        uri = unquote(key) if store.url.startswith("file:") else key
        if "://" in uri:
            raise InvalidInput(f"{uri[:200]!r} is no key", field="uri")
    try:
        return check_source_uri(store, uri, remote)
    except InvalidInput as error:
        raise InvalidInput(str(error).removeprefix(f"{error.field}: "), field="uri") from error
