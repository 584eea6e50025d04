"""What forms send, as values: whole numbers, and lines of settings."""

from collections.abc import Mapping

from stablerep.errors import InvalidInput

_DIGITS = 18


def whole(asked: Mapping[str, str], key: str) -> int:
    """A whole number from 0; nothing is 0. Raises InvalidInput."""
    text = asked.get(key, "") or "0"
    if not text.isascii() or not text.isdigit() or len(text) > _DIGITS:
        raise InvalidInput(f"{text[:40]!r} is no whole number from 0", field=key)
    return int(text)


def settings(text: str) -> dict[str, str]:
    """Lines `key=value`, as `--set` takes them. Raises InvalidInput."""
    found = {}
    for line in filter(str.strip, text.splitlines()):
        key, equals, value = line.partition("=")
        if not equals:
            raise InvalidInput(f"{line.strip()[:80]!r}: write key=value, one in a line", field="settings")
        found[key.strip()] = value.strip()
    return found
