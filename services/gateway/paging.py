"""Pages of lists: how many entries one has, and the token that names where the next one begins."""

import base64
import binascii
from collections.abc import Callable, Sequence

from stablerep.errors import InvalidInput

MAX_PAGE = 1000
DEFAULT_PAGE = 100


def page_size_of(asked: int) -> int:
    """How many entries a page has: what was asked, within 1..1000; 100 for 0."""
    return min(max(asked, 1), MAX_PAGE) if asked else DEFAULT_PAGE


def page_of(names: Sequence[str], size: int, after: str) -> tuple[list[str], str]:
    """The sorted names beyond `after`, at most `size`, and the token of the page after them."""
    later = [name for name in names if name > after]
    page = later[:size]
    return page, base64.urlsafe_b64encode(page[-1].encode()).decode() if len(later) > size else ""


def read_token(token: str, check: Callable[[str], str], method: str) -> str:
    """The name after which a page begins; empty for the first page. Raises InvalidInput."""
    if not token:
        return ""
    try:
        return check(base64.b64decode(token.encode(), b"-_", validate=True).decode())
    except (binascii.Error, UnicodeError, InvalidInput):
        raise InvalidInput(
            f"is none that {method} returned; leave it out for the first page", field="page_token"
        ) from None
