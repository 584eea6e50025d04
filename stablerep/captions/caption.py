"""A caption, and the account of what became of every record of its source."""

import re
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import NamedTuple

MAX_CHARACTERS = 1000
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
INVISIBLE = re.compile(
    "[\u00ad\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\ufff9-\ufffb]"
)
"""Zero-width spaces, marks, soft hyphens, directions of writing: nothing that a text encoder should see."""
BLANK = re.compile("[\\s\u115f\u1160\u200c\u200d\u2800\u3164\ufe00-\ufe0f\uffa0]*")
"""Characters that join or fill; a text of nothing else is empty."""
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


_WORDS = {
    "lines": "records",
    "too_long": f"too long (over {MAX_CHARACTERS} characters)",
    "bad_encoding": "with bytes that are no text (wrong encoding)",
    "missing_column": "without the caption's column",
    "malformed": "malformed (wrong quotes or cells)",
}


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
        counts = {_WORDS.get(name, name): number for name, number in asdict(self).items() if number}
        return ", ".join(f"{number:,} {name}" for name, number in counts.items()) or "0 records"


def clean(text: str) -> str | Flaw:
    """A record's text as one line of at most `MAX_CHARACTERS`, or what is wrong with it.

    Runs of white space and control characters become one space; invisible characters are removed.
    """
    if SURROGATES.search(text):  # bytes that were no UTF-8, or half a JSON escape
        return Flaw.BAD_ENCODING
    line = " ".join(CONTROL_CHARACTERS.sub(" ", text).split())
    if not line.isascii():
        line = " ".join(INVISIBLE.sub("", line).split())
        line = "" if BLANK.fullmatch(line) else line
    if not line:
        return Flaw.EMPTY
    return line if len(line) <= MAX_CHARACTERS else Flaw.TOO_LONG
