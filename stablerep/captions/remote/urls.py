"""URLs of caption sources: brought into one form, and compared with the beginnings that an operator allows.

What could be read in two ways (user info, backslashes, dot segments however encoded, hosts that are numbers)
is refused rather than repaired: the parser that decides and the client that connects must see the same URL.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, unquote, unquote_to_bytes

from stablerep.errors import InvalidInput

SCHEMES = ("https", "http", "s3", "hf")
MAX_URL = 2000
PORTS = {"http": 80, "https": 443}
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.:-]*)://([^/?#]*)([^?#]*)(\?[^#]*)?")
_LABELS = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_HUB_PATH = re.compile(r"/[\w.-]+/[\w.-]+(@[\w.~-]+|@refs%2F[\w.%-]+)?(/[^@:]*)?")
_KEPT = "!$&'()*+,:=@~"  # beside letters, digits and _.-~: stands for itself in a path


@dataclass(frozen=True)
class SourceUrl:
    """A URL in its one form; `path` begins with a slash and `query`, where there is one, with a `?`."""

    scheme: str
    host: str  # with its port unless that is the scheme's own; a bucket (s3); the kind of repository (hf)
    path: str
    query: str = ""

    def __str__(self) -> str:
        return f"{self.shown}{self.query}"

    @property
    def shown(self) -> str:
        """Without the query, which may hold a signature: for messages and logs."""
        return f"{self.scheme}://{self.host}{self.path}"

    @property
    def key(self) -> str:
        """The object's key in its bucket (s3)."""
        return self.path.removeprefix("/")

    @property
    def name(self) -> str:
        """The last part of the path, whose ending gives the format."""
        part = self.path.rpartition("/")[2]
        return unquote(part) if self.scheme in PORTS else part


def parse_url(text: str) -> SourceUrl:
    """The URL in its one form. Raises InvalidInput for other schemes and for what could mislead."""
    found = _URL.fullmatch(text)
    if found is None or len(text) > MAX_URL or not text.isprintable() or " " in text or "\\" in text:
        raise _refused(text, f"is no plain URL of at most {MAX_URL} characters")
    scheme, host, path, query = found[1].lower(), found[2], found[3], found[4] or ""
    if scheme not in SCHEMES:
        raise _refused(text, f"is none of {', '.join(f'{known}://' for known in SCHEMES)}")
    if "@" in host:
        raise _refused(text, "has user info; the gateway sends none")
    if scheme == "s3":
        return SourceUrl(scheme, _bucket(text, host), _plain_path(text, path + query))
    if scheme == "hf":
        return SourceUrl(scheme, _repositories(text, host), _hub_path(text, path + query))
    return SourceUrl(scheme, _origin(text, scheme, host), _web_path(text, path), _query(text, query))


class AllowedUrls:
    """The beginnings of URLs that an operator allows; compared part by part, never within one.

    Args:
        beginnings: `https://host`, `https://host:8443/folder`, `s3://bucket/prefix`, `hf://datasets/owner/name`.
    Raises: InvalidInput for one that is no such URL.
    """

    def __init__(self, beginnings: Iterable[str] = ()) -> None:
        self._beginnings = tuple(map(parse_url, beginnings))
        for url in self._beginnings:
            if url.query:
                raise _refused(url.shown, "has a query, which a beginning cannot have")

    def check(self, text: str) -> SourceUrl:
        """The URL in its one form, if one of the beginnings is its own. Raises InvalidInput."""
        url = parse_url(text)
        if not any(_begins(url, beginning) for beginning in self._beginnings):
            raise InvalidInput(
                f"{url.shown[:200]!r} is not in the store, and the gateway is not set to read it "
                "(gateway.source_urls); upload it",
                field="uri",
            )
        return url


def _begins(url: SourceUrl, beginning: SourceUrl) -> bool:
    if (url.scheme, url.host) != (beginning.scheme, beginning.host):
        return False
    return any(
        path == beginning.path or path.startswith(f"{beginning.path.rstrip('/')}/") for path in _paths(url)
    )


def _paths(url: SourceUrl) -> tuple[str, ...]:
    """The path; of a repository on the hub also without the revision, so that one beginning allows all."""
    return (url.path, re.sub(r"@[^/]*", "", url.path)) if url.scheme == "hf" else (url.path,)


def _origin(text: str, scheme: str, host: str) -> str:
    bare, port = host.lower(), ""
    if found := re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(?::(\d{1,5}))?", bare):
        bare, port = found[1], found[2] or ""
    if port and not 1 <= int(port) <= 65535:
        raise _refused(text, "has an impossible port")
    number = int(port) if port else PORTS[scheme]
    return _host(text, bare) + ("" if number == PORTS[scheme] else f":{number}")


def _host(text: str, host: str) -> str:
    if host.startswith("["):
        try:
            if host.endswith("]") and "%" not in host:
                return f"[{ipaddress.IPv6Address(host[1:-1])}]"
        except ValueError:
            pass
        raise _refused(text, "has no IPv6 address in its brackets")
    if not host.isascii():
        raise _refused(text, "has a host that is not ASCII; write it as xn--...")
    if not _LABELS.fullmatch(host):
        raise _refused(text, "has no host")
    if re.fullmatch(r"\d+|0x[0-9a-f]*", host.rpartition(".")[2]):  # some resolvers take it for an address
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise _refused(text, "has a host that is a number; write the address as 192.0.2.1") from None
    return host


def _web_path(text: str, path: str) -> str:
    """Percent-encoded in the one way: what need not be encoded is not, what must be is in capitals."""
    if re.search(r"%(?![0-9A-Fa-f]{2})", path):
        raise _refused(text, "has a % that encodes nothing")
    parts = path.removeprefix("/").split("/")
    for part in parts:
        _check_part(text, part)
    return "/" + "/".join(quote(unquote_to_bytes(part), safe=_KEPT) for part in parts)


def _check_part(text: str, part: str) -> None:
    decoded, before = unquote(part, errors="replace"), part
    while decoded != before:  # some servers decode twice
        before, decoded = decoded, unquote(decoded, errors="replace")
    if "/" in decoded or "\\" in decoded or not decoded.isprintable():
        raise _refused(text, "hides a separator or a control character behind a %")
    if decoded.partition(";")[0] in (".", ".."):
        raise _refused(text, "has a part '.' or '..'")


def _query(text: str, query: str) -> str:
    if not query.isascii():
        raise _refused(text, "has a query that is not ASCII; percent-encode it")
    return query


def _bucket(text: str, bucket: str) -> str:
    if not _BUCKET.fullmatch(bucket):
        raise _refused(text, "has no bucket (3-63 of a-z, 0-9, '-', '.')")
    return bucket


def _repositories(text: str, kind: str) -> str:
    if kind != "datasets":
        raise _refused(text, "is not hf://datasets/owner/name/file")
    return kind


def _hub_path(text: str, path: str) -> str:
    if not _HUB_PATH.fullmatch(path):
        raise _refused(text, "is not hf://datasets/owner/name/file or hf://datasets/owner/name@revision/file")
    return _plain_path(text, path)


def _plain_path(text: str, path: str) -> str:
    """A path in which nothing is encoded; empty parts and dots could be read in two ways."""
    if (
        any(part in ("", ".", "..") for part in path.removeprefix("/").rstrip("/").split("/"))
        and len(path) > 1
    ):
        raise _refused(text, "has an empty part, or one that is '.' or '..'")
    return path or "/"


def _refused(text: str, problem: str) -> InvalidInput:
    return InvalidInput(f"{text.partition('?')[0][:200]!r} {problem}", field="uri")
