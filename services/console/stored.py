"""What pages show of files in the store, checked: whoever may write there is not trusted by whoever reads."""

from collections.abc import Sequence
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from stablerep.errors import TornObject


class _File(BaseModel):
    model_config = ConfigDict(frozen=True)


Content = TypeVar("Content", bound=_File)


class MapFile(_File):
    """`runs/<run>/maps/<data>.json`: photographs on a plane, -1 to 1, with their classes and nearest ones."""

    data: str
    classes: list[str]
    side: int = Field(ge=1, le=1024)
    columns: int = Field(ge=1, le=1024)
    points: list[tuple[FiniteFloat, FiniteFloat]] = Field(min_length=1)
    labels: list[int]
    neighbours: list[list[int]]

    @model_validator(mode="after")
    def _check(self) -> Self:
        count = len(self.points)
        _check_places(self.labels, len(self.classes), "labels")
        for near in self.neighbours:
            _check_places(near, count, "neighbours")
        if not len(self.labels) == len(self.neighbours) == count:
            raise ValueError(f"want {count} labels and neighbours")
        return self


class _SweepSpec(_File):
    title: str = ""
    about: str = ""


class _SweepPoint(_File):
    run: str = ""
    labels: dict[str, Any] = {}
    seed: int | None = None
    scores: dict[str, FiniteFloat] | None = None


class SweepFile(_File):
    """`sweeps/<name>.json`: what a sweep has measured."""

    spec: _SweepSpec = _SweepSpec()
    points: list[_SweepPoint] = []


def parse(kind: type[Content], content: dict[str, Any], key: str) -> Content:
    """Raises TornObject where the content of `key` is not of this kind."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise TornObject(f"{key} cannot be read: {where}: {first['msg']}"[:500]) from error


def _check_places(places: Sequence[int], count: int, what: str) -> None:
    if not all(0 <= place < count for place in places):
        raise ValueError(f"{what} are not all in 0..{count - 1}")
