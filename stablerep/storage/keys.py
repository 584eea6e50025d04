"""The rules that every key of a store keeps to, so that it can name an object in a folder and in a bucket."""

from stablerep.errors import InvalidInput

MAX_KEY_BYTES = 512
MAX_PART_BYTES = 255  # the longest file name that common file systems take
TEMPORARY_PREFIX = ".tmp-"  # files that a local store is still writing; no key may contain such a part


def check_key(key: str) -> str:
    """The key itself, if it can name an object in every store. Raises InvalidInput otherwise."""
    if not key:
        raise InvalidInput("a key is empty", field="key")
    _check_parts(key, key.split("/"))
    return key


def check_prefix(prefix: str) -> str:
    """The prefix itself, if keys could start with it. Raises InvalidInput otherwise."""
    parts = prefix.split("/")
    _check_parts(prefix, parts if parts[-1] else parts[:-1])
    return prefix


def check_folder(prefix: str) -> str:
    """The prefix itself, if it is "" or the name of a folder with its "/". Raises InvalidInput otherwise."""
    if prefix and not prefix.endswith("/"):
        raise InvalidInput(f"{prefix!r} is no folder: give it with '/' at its end", field="prefix")
    return check_prefix(prefix)


def _check_parts(key: str, parts: list[str]) -> None:
    if not key.isprintable():
        raise InvalidInput(f"{key!r} contains a control or unprintable character", field="key")
    if len(key.encode()) > MAX_KEY_BYTES:
        raise InvalidInput(f"{key[:60]!r}... is longer than {MAX_KEY_BYTES} bytes", field="key")
    if "\\" in key:
        raise InvalidInput(f"{key!r} contains a backslash; parts are separated by '/'", field="key")
    for part in parts:
        if not part:
            raise InvalidInput(f"{key!r} has an empty part; no leading, trailing or double '/'", field="key")
        if part in (".", ".."):
            raise InvalidInput(f"{key!r} contains the part {part!r}", field="key")
        if part.startswith(TEMPORARY_PREFIX):
            raise InvalidInput(f"{key!r}: names starting with {TEMPORARY_PREFIX!r} are reserved", field="key")
        if len(part.encode()) > MAX_PART_BYTES:
            raise InvalidInput(f"a part of {key[:60]!r} is longer than {MAX_PART_BYTES} bytes", field="key")
