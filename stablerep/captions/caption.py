"""A caption: one line of text with a stable id inside its source."""

from typing import NamedTuple


class Caption(NamedTuple):
    """`id` is the 0-based index of the caption's record in its source; unusable records have ids too."""

    id: int
    text: str
