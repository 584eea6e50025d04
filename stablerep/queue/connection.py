"""From the URL of a queue server to a client: redis://, rediss:// (TLS), unix://, and through Sentinels."""

from typing import Any
from urllib.parse import unquote, urlsplit

import redis
from redis.sentinel import Sentinel

from stablerep.errors import InvalidInput

_SENTINEL = "+sentinel"
SENTINEL_PORT = 26379


def connect(url: str, **options: Any) -> Any:
    """A client that connects when it is first used; `options` are those of `redis.Redis`.

    `redis+sentinel://[:PASSWORD@]HOST[:PORT],HOST[:PORT]/SERVICE[/NUMBER]` asks the Sentinels for the primary
    of SERVICE at each new connection; the password is that of all of them. `rediss+sentinel://`: TLS.

    Raises:
        InvalidInput: it is none of these; the text never holds the URL, which may hold a password.
    """
    try:
        if _SENTINEL in url.partition("://")[0]:
            return _through_sentinels(url, options)
        return redis.Redis.from_url(url, **options)
    except ValueError:
        # The text of the cause may hold a piece of the password, which a `/` or `#` has cut in two.
        raise InvalidInput(
            "is no URL of a queue server; write redis://[:PASSWORD@]HOST:PORT/0 (rediss:// for TLS) or "
            "redis+sentinel://[:PASSWORD@]HOST:26379,HOST:26379/SERVICE/0, with / and # in a password as "
            "%2F and %23",
            field="redis_url",
        ) from None


def shown(url: str) -> str:
    """The URL without user, password and options, as it may be shown."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _through_sentinels(url: str, options: dict[str, Any]) -> Any:
    parts = urlsplit(url)
    service, _, number = parts.path.strip("/").partition("/")
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    places = [_place(host) for host in hosts.split(",")]
    if (
        parts.scheme not in ("redis+sentinel", "rediss+sentinel")
        or not service
        or parts.query
        or parts.fragment
    ):
        raise ValueError("not a URL of Sentinels")
    own: dict[str, Any] = {"ssl": True} if parts.scheme == "rediss+sentinel" else {}
    if password:
        own["password"] = unquote(password)
    sentinels = Sentinel(places, sentinel_kwargs={**own, "socket_timeout": 5, "socket_connect_timeout": 5})
    if user:
        own["username"] = unquote(user)
    return sentinels.master_for(unquote(service), db=int(number or 0), **own, **options)


def _place(host: str) -> tuple[str, int]:
    name, colon, port = host.rpartition(":")
    if not (name or host) or (colon and not name):
        raise ValueError("a Sentinel without a host")
    return (name.strip("[]"), int(port)) if colon else (host, SENTINEL_PORT)
