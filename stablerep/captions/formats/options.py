"""How a caption file is to be read, and what was found out about it meanwhile."""

from dataclasses import dataclass


@dataclass
class Options:
    """What was asked for, and what its reader found.

    Attributes:
        column: name of the column or field, or (csv, tsv) its number from 0; None: by the usual names.
        header: (csv, tsv) whether the first row names the columns; None: by its look.
        encoding, separator, found_column, found_header: as found; empty or None where there is no such thing.
    """

    column: str | None = None
    header: bool | None = None
    encoding: str = ""
    separator: str = ""
    found_column: str = ""
    found_header: bool | None = None
