"""Stand-ins of a GPU's streams, which write down what would be asked of `torch.cuda`."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest


class Streams:
    """`said` in the order of asking; streams that are made have the names given, the current one `current`.

    `module` is the one whose `torch.cuda` is replaced.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any, current: str, *names: str) -> None:
        self.said: list[str] = []
        self.current = self._new(current)
        made = map(self._new, names)
        for name, value in {
            "Stream": lambda device: next(made),
            "current_stream": lambda device: self.current,
            "stream": self._inside,
        }.items():
            monkeypatch.setattr(module.torch.cuda, name, value)

    def _new(self, name: str) -> SimpleNamespace:
        wait = lambda other: self.said.append(f"{name} waits for {other.name}")  # noqa: E731
        return SimpleNamespace(name=name, wait_stream=wait)

    @contextmanager
    def _inside(self, stream: SimpleNamespace) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def tensor(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(
            record_stream=lambda stream: self.said.append(f"{name} is used in {stream.name}")
        )

    def take(self) -> list[str]:
        said, self.said = self.said, []
        return said
