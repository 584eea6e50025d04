"""A caption, and the account of what became of every record of its source."""

import re
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import NamedTuple

MAX_CHARACTERS = 1000
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
SURROGATES = re.compile(r"[\ud800-\udfff]")


class Caption(NamedTuple):
    """`id` is the 0-based index of the caption's record in its source; unusable records have ids too."""

    id: int
    text: str


class Flaw(StrEnum):
    """Why a record gives no caption; the values are the counters of `CaptionReport`."""

    EMPTY = "empty"
    TOO_LONG = "too_long"
    BAD_ENCODING = "bad_encoding"
    MISSING_COLUMN = "missing_column"
    MALFORMED = "malformed"


@dataclass
class CaptionReport:
    """How many records were read so far, and what became of them; fields as in generation.proto."""

    lines: int = 0
    captions: int = 0
    empty: int = 0
    too_long: int = 0
    bad_encoding: int = 0
    missing_column: int = 0
    malformed: int = 0

    def count(self, flaw: Flaw | None) -> None:
        """Counts one record: a caption, or one with a flaw."""
        name = "captions" if flaw is None else flaw.value
        self.lines += 1
        setattr(self, name, getattr(self, name) + 1)

    def __str__(self) -> str:
        return ", ".join(f"{number} {name}" for name, number in asdict(self).items() if number) or "0 lines"


def clean(text: str) -> str | Flaw:
    """A record's text as one line of at most `MAX_CHARACTERS`, or what is wrong with it.

    Runs of white space and control characters become one space.
    """
    if SURROGATES.search(text):  # bytes that were no UTF-8, or half a JSON escape
        return Flaw.BAD_ENCODING
    line = " ".join(CONTROL_CHARACTERS.sub(" ", text).split())
    if not line:
        return Flaw.EMPTY
    return line if len(line) <= MAX_CHARACTERS else Flaw.TOO_LONG
