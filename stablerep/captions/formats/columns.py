"""The names that caption columns usually have, and finding one among those of a file."""

import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import islice

from stablerep.errors import InvalidInput

USUAL_NAMES = ("caption", "text", "raw_caption", "title", "description", "alt_text", "sentence", "prompt")
_NEAR_NAMES = {  # letters alone, of names that mean the same
    "captions": "caption",
    "captiontext": "caption",
    "textcaption": "caption",
    "texts": "text",
    "rawcaption": "raw_caption",
    "titles": "title",
    "descriptions": "description",
    "alttext": "alt_text",
    "alttexts": "alt_text",
    "alt": "alt_text",
    "sentences": "sentence",
    "prompts": "prompt",
}
_OTHER_LETTERS = re.compile(r"[\W_]+")
MAX_NAMES = 1000
_MAX_WORDS = 3
"""Of a name that is known by ending in "caption", such as `Image Caption`; a caption itself has more."""


def usual_column(names: Iterable[str]) -> str | None:
    """The name of the captions: of those in `USUAL_NAMES` the first, spelt so or nearly so; None without."""
    return _usual(tuple(islice(names, MAX_NAMES)))


@lru_cache(maxsize=1024)
def _usual(names: tuple[str, ...]) -> str | None:
    best: dict[str, tuple[int, str]] = {}
    for name in names:
        if (found := _meaning(name)) is not None:
            usual, distance = found
            best[usual] = min(best.get(usual, (9, "")), (distance, name), key=lambda item: item[0])
    return next((best[usual][1] for usual in USUAL_NAMES if usual in best), None)


def _meaning(name: str) -> tuple[str, int] | None:
    """The usual name that a name means, and how far from it the name is spelt."""
    lower = name.strip().lower()
    if lower in USUAL_NAMES:
        return lower, 0 if name in USUAL_NAMES else 1
    words = [word for word in _OTHER_LETTERS.split(lower) if word]
    letters = "".join(words)
    if letters in USUAL_NAMES or letters in _NEAR_NAMES:
        return _NEAR_NAMES.get(letters, letters), 2
    if 1 < len(words) <= _MAX_WORDS and words[-1] in ("caption", "captions"):
        return "caption", 3
    return None


def find_column(names: Iterable[str], column: str | None) -> str:
    """The named column, or the usual one. Raises InvalidInput that lists what there is."""
    names = list(names)
    found = usual_column(names) if column is None else next((name for name in names if name == column), None)
    if found is None:
        what = "no column has a usual name" if column is None else f"there is no column {column!r}"
        raise InvalidInput(f"{what}; the columns are {shown(names)}", field="column")
    if names.count(found) > 1:
        raise InvalidInput(
            f"{names.count(found)} columns are named {found!r}; rename one (csv, tsv: or give its number)",
            field="column",
        )
    return found


def shown(cells: Iterable[str]) -> str:
    """Names or cells as an error shows them."""
    return ", ".join(repr(cell[:40]) for cell in list(cells)[:20]) or "none"
