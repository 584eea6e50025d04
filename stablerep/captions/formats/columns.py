"""The names that caption columns usually have, and finding one among those of a file."""

from collections.abc import Iterable

from stablerep.errors import InvalidInput

USUAL_NAMES = ("caption", "text", "raw_caption", "title", "description", "alt_text", "sentence", "prompt")


def usual_column(names: Iterable[str]) -> str | None:
    """The name that comes first in `USUAL_NAMES`, in any case but best as written there; None without one."""
    there = list(names)
    by_lower = {name.strip().lower(): name for name in reversed(there)}
    by_lower |= {name: name for name in there if name in USUAL_NAMES}
    return next((by_lower[usual] for usual in USUAL_NAMES if usual in by_lower), None)


def find_column(names: Iterable[str], column: str | None) -> str:
    """The named column, or the usual one. Raises InvalidInput that lists what there is."""
    names = list(names)
    found = usual_column(names) if column is None else next((name for name in names if name == column), None)
    if found is None:
        what = "no column has a usual name" if column is None else f"there is no column {column!r}"
        shown = ", ".join(repr(name[:40]) for name in names[:20]) or "none"
        raise InvalidInput(f"{what}; the columns are {shown}", field="column")
    return found
