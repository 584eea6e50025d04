"""Names of many files at once: a range of numbers in braces, `{00000..00099}`, and `*` in the last part."""

import re
from itertools import product

from stablerep.errors import InvalidInput

MAX_FILES = 100_000
_RANGE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")


def is_pattern(name: str) -> bool:
    """Whether a name stands for many files."""
    return "*" in name or _RANGE.search(name) is not None


def expand(name: str, *, limit: int = MAX_FILES) -> list[str]:
    """The names that the ranges in braces stand for, in order; zeros in front are kept.

    Raises:
        InvalidInput: a range that goes backwards, or more than `limit` names.
    """
    pieces = _RANGE.split(name)
    ranges = []
    count = 1
    for first, last in zip(pieces[1::3], pieces[2::3], strict=True):
        if int(first) > int(last):
            raise InvalidInput(f"the range {{{first}..{last}}} goes backwards", field="uri")
        count *= int(last) - int(first) + 1
        if count > limit:
            raise InvalidInput(f"stands for more than {limit:,} files; make several jobs", field="uri")
        ranges.append((range(int(first), int(last) + 1), len(first)))
    texts = pieces[0::3]
    numbers = product(*([f"{number:0{width}d}" for number in values] for values, width in ranges))
    return ["".join(map("".join, zip(texts, (*chosen, ""), strict=True))) for chosen in numbers]


def matcher(name: str) -> tuple[str, re.Pattern[str]]:
    """For a name with `*`: the beginning to list, and what names match whole.

    Raises:
        InvalidInput: a `*` before the last part.
    """
    folder, slash, last = name.rpartition("/")
    if "*" in folder:
        raise InvalidInput("may have a * in its last part only", field="uri")
    pattern = "[^/]*".join(re.escape(text) for text in last.split("*"))
    return folder + slash + last.partition("*")[0], re.compile(re.escape(folder + slash) + pattern)
