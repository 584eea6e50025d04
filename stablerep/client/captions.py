"""What `captions` of a client means: a file to upload, or a place that the gateway reads itself.

Of local WebDataset shards only the captions are sent, as JSON lines in the order of the samples, so that ids
and counts are those that the gateway would give. With `upload`, a URL is read here, by fsspec and with the
credentials of this machine, and sent like a file.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stablerep.client.requests import caption_source
from stablerep.errors import InvalidInput, NotFound

_FLAWS = {
    "empty": {"caption": ""},
    "too_long": {"caption": "x" * 1001},
    "bad_encoding": {"caption": "\ud800"},
    "missing_column": {},
    "malformed": [],
}
"""A line that the gateway counts as the same flaw; a sample without a caption keeps its id so."""


@dataclass(frozen=True)
class ChosenCaptions:
    """Either a file to upload or a URI to name; format and column are as the gateway is to be told them."""

    path: Path | None
    uri: str
    format: str
    column: str


@contextmanager
def choose_captions(
    captions: str | os.PathLike[str],
    *,
    format: str = "",
    column: str = "",
    limit: int = 0,
    upload: bool = False,
) -> Iterator[ChosenCaptions]:
    """What to send for `captions`; files made on the way are there within the block.

    Raises:
        InvalidInput: no such file, a damaged one, or a URL that cannot be read here.
    """
    text = os.fspath(captions)
    remote = "://" in text
    tars = format == "webdataset" or (not format and text.lower().endswith((".tar", ".tar.gz", ".tar.zst")))
    with tempfile.TemporaryDirectory(prefix="stablerep-") as folder:
        if text.startswith("store:") or (remote and not upload):
            yield ChosenCaptions(None, str(caption_source(text)), format, column)
        elif tars:
            path = Path(folder) / f"{_name(text).partition('.tar')[0] or 'captions'}.jsonl.zst"
            _extract(text, path, column, limit)
            yield ChosenCaptions(path, "", "jsonl", "")
        elif remote:
            path = Path(folder) / _name(text)
            _download(text, path)
            yield ChosenCaptions(path, "", format, column)
        else:
            yield ChosenCaptions(Path(caption_source(text)), "", format, column)


def _name(text: str) -> str:
    return (text.partition("?")[0] if "://" in text else text).rstrip("/").rpartition("/")[2] or "captions"


def _extract(text: str, path: Path, column: str, limit: int) -> None:
    """Writes the captions of tars, read one after the other, as JSON lines."""
    import zstandard

    from stablerep.captions import open_source
    from stablerep.captions.caption import Flaw
    from stablerep.captions.reading import read_records

    try:
        source = _remote_source(text) if "://" in text else open_source(text)
    except NotFound as error:
        raise InvalidInput(str(error), field="captions") from error
    captions = 0
    with zstandard.open(path, "w", encoding="utf-8") as file, _failures(text):
        for record in read_records(source, format="webdataset", column=column):
            line = _FLAWS[record.value] if isinstance(record, Flaw) else {"caption": record}
            file.write(json.dumps(line) + "\n")
            captions += not isinstance(record, Flaw)
            if captions == limit != 0:
                return


def _download(url: str, path: Path) -> None:
    with _failures(url):
        files, name = _file_system(url)
        with files.open(name, "rb") as remote, path.open("wb") as file:
            shutil.copyfileobj(remote, file, 1 << 20)


def _remote_source(url: str) -> Any:
    """The tars behind a URL as one source."""
    from stablerep.captions.patterns import expand
    from stablerep.captions.source import Source, many_sources

    with _failures(url):
        members = []
        for expanded in expand(url):
            files, name = _file_system(expanded)
            for path in sorted(files.glob(name)) if "*" in name else [name]:
                opener = _Opener(files, path)
                members.append(Source(path.rpartition("/")[2], files.size(path) or 0, opener))
    if not members:
        raise InvalidInput(f"there are no files {url}", field="captions")
    return many_sources(url, members)


@dataclass(frozen=True)
class _Opener:
    files: Any
    path: str

    def __call__(self) -> Any:
        return self.files.open(self.path, "rb")


def _file_system(url: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs
    except ModuleNotFoundError as error:
        raise InvalidInput(
            "reading a URL here needs more packages: pip install 'stablerep[sources]'", field="captions"
        ) from error
    files, path = url_to_fs(url)
    return files, str(path)


@contextmanager
def _failures(url: str) -> Iterator[None]:
    """Turns what fsspec and what it reads with raise into InvalidInput."""
    try:
        yield
    except InvalidInput:
        raise
    except _expected_failures() as error:
        text = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise InvalidInput(f"{url.partition('?')[0]} cannot be read: {text}", field="captions") from error


def _expected_failures() -> tuple[type[Exception], ...]:
    """With those of the clients behind fsspec that are in use, not all of which are OSErrors."""
    foreign = (
        ("aiohttp", "ClientError"),
        ("botocore.exceptions", "BotoCoreError"),
        ("botocore.exceptions", "ClientError"),
    )
    there = [getattr(sys.modules[module], name) for module, name in foreign if module in sys.modules]
    return (OSError, ValueError, ImportError, *there)
