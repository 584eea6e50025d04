"""`open_store`: from a URL to the store behind it; the only file that imports the backends."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from stablerep.errors import InvalidInput
from stablerep.storage.interface import S3Access, Store


def open_store(url: str | Path, *, s3: S3Access | None = None) -> Store:
    """The store at `file:///folder` or a plain path (made by the first write), or at `s3://bucket/prefix`.

    S3 is reached as `s3` says, else by the settings (`STABLEREP_S3__ENDPOINT`, `STABLEREP_S3__ACCESS_KEY`,
    `STABLEREP_S3__SECRET_KEY`, ...: docs/stores.md). Nothing is sent to the server before the first use; a
    missing bucket is made by the first write. Raises InvalidInput for a URL or setting that cannot work.
    """
    text = str(url)
    if text.startswith("s3://"):
        from stablerep.storage.s3.store import open_s3

        return open_s3(text, s3)
    from stablerep.storage.local.store import LocalStore

    return LocalStore(_local_folder(text))


def _local_folder(url: str) -> Path:
    if not url:
        raise InvalidInput("give file:///folder, a path, or s3://bucket/prefix", field="store_url")
    if url.startswith("file://"):
        parsed = urlsplit(url)
        if parsed.netloc not in ("", "localhost") or not parsed.path or parsed.query or parsed.fragment:
            raise InvalidInput(
                f"{url!r} is not file:///folder (three slashes, absolute path)", field="store_url"
            )
        return Path(unquote(parsed.path))
    if "://" in url:
        scheme = url.partition("://")[0]
        raise InvalidInput(
            f"{scheme}:// is no store; use file:///folder or s3://bucket/prefix", field="store_url"
        )
    return Path(url).expanduser()
