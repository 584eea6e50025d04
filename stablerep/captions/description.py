"""What is understood of a caption source before a job uses it: format, column, first captions, flaws."""

from dataclasses import dataclass
from itertools import islice

from stablerep.captions.caption import CaptionReport, Flaw
from stablerep.captions.formats.options import Options
from stablerep.captions.reading import check_format, nothing_usable, read_records
from stablerep.captions.source import Source

FIRST = 3
SAMPLE = 10_000


@dataclass(frozen=True)
class Description:
    """A source as its first records show it.

    Attributes:
        column: name of the captions' column, or its number; "" where the format has none.
        header: whether the first row was taken for a header; None where the format has none.
        first: the first captions, and how they look.
        report: counts of the records read; `whole` says whether these were all.
    """

    format: str
    encoding: str
    separator: str
    column: str
    header: bool | None
    first: tuple[str, ...]
    report: CaptionReport
    whole: bool

    def lines(self) -> list[str]:
        """The description in a few lines for a person."""
        names = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
        facts = [self.format, self.encoding]
        facts += [f"separated by {names[self.separator]}"] if self.separator else []
        if self.header is not None:
            facts.append("with a header" if self.header else "without a header")
        if self.column:
            facts.append(f"captions in column {self.column!r}")
        read = (
            f"{self.report}" if self.whole else f"{self.report} (of the first {self.report.lines:,} records)"
        )
        shown = [f"  {caption[:100]}" for caption in self.first]
        return [", ".join(filter(None, facts)), read, "first captions:", *shown]


def describe(
    source: Source,
    *,
    format: str | None = None,
    column: str | None = None,
    header: bool | None = None,
    sample: int = SAMPLE,
) -> Description:
    """Reads the first `sample` records. Raises InvalidInput as `read_captions` does."""
    options = Options(column or None, header)
    found = check_format(source.name, format)
    report = CaptionReport()
    first: list[str] = []
    records = read_records(source, format=found, options=options)
    for record in islice(records, sample):
        if isinstance(record, Flaw):
            report.count(record)
            continue
        report.count(None)
        if len(first) < FIRST:
            first.append(record)
    whole = next(records, None) is None
    if whole and not report.captions:
        raise nothing_usable(source, column or None, report)
    return Description(
        format=found,
        encoding=options.encoding,
        separator=options.separator,
        column=options.found_column if options.found_column or found == "text" else (column or ""),
        header=options.found_header,
        first=tuple(first),
        report=report,
        whole=whole,
    )
