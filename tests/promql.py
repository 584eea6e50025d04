"""Just enough of PromQL to say which metrics, labels and label values an expression reads."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKENS = re.compile(
    r"""
    (?P<string>"[^"]*"|'[^']*')
  | (?P<range>\[[^\]]*\])
  | (?P<grouping>\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\))
  | (?P<number>\b\d[\w.]*)
  | (?P<matchers>\{[^}]*\})
  | (?P<word>[A-Za-z_:][\w:]*)
  | (?P<other>\S)
    """,
    re.VERBOSE,
)
_MATCHER = re.compile(r"""([A-Za-z_]\w*)\s*(=~|!~|!=|=)\s*"([^"]*)"\s*,?\s*""")
_OPERATORS = {"and", "or", "unless", "bool", "offset", "atan2"}


@dataclass(frozen=True)
class Matcher:
    """`label operator "value"` on a metric."""

    label: str
    operator: str
    value: str


@dataclass(frozen=True)
class Reading:
    """One metric that an expression names, and what it asks of its labels."""

    metric: str
    matchers: tuple[Matcher, ...] = ()


def readings(expression: str) -> list[Reading]:
    """Every metric that the expression names, in order. Raises ValueError for matchers it cannot read."""
    found: list[Reading] = []
    tokens = [(match.lastgroup, match[0]) for match in _TOKENS.finditer(expression)]
    for (kind, text), (_, following) in zip(tokens, [*tokens[1:], (None, "")], strict=True):
        is_function = following == "(" or re.match(r"(by|without)\s*\(", following)
        if kind == "word" and not is_function and text not in _OPERATORS:
            found.append(Reading(text))
        elif kind == "matchers":
            if not found:
                raise ValueError(f"no metric's name before {text} in {expression}")
            found[-1] = Reading(found[-1].metric, tuple(_matchers(text[1:-1])))
    return found


def grouped_labels(expression: str) -> set[str]:
    """Every label named in `by (...)`, `without (...)` and the like."""
    groupings = [m[0] for m in _TOKENS.finditer(expression) if m.lastgroup == "grouping"]
    return {label for grouping in groupings for label in re.findall(r"\w+", grouping.partition("(")[2])}


def _matchers(text: str) -> Iterator[Matcher]:
    end = 0
    for match in _MATCHER.finditer(text):
        if match.start() != end:
            break
        yield Matcher(*match.groups())
        end = match.end()
    if text[end:].strip():
        raise ValueError(f"cannot read {{{text}}}")
