"""The `captions` of a client: a file to upload, or a place that the gateway reads itself.

Of WebDataset shards, and of many files (`part-{00000..00127}.parquet`, `parts/*.csv.gz`), only the captions
are sent, as JSON lines in order, so that ids and counts are those that the gateway would give. A pipe (`-` is
standard input) is first read into a file. With `upload`, a URL is read on this machine, by fsspec and with
its credentials, and sent like a file.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stablerep import zstd
from stablerep.captions import FORMATS, Description, Source, check_format, describe, open_source
from stablerep.captions.caption import Flaw
from stablerep.captions.patterns import expand, is_pattern
from stablerep.captions.reading import read_records
from stablerep.captions.source import many_sources
from stablerep.client.requests import caption_source, is_there, place_captions
from stablerep.errors import InvalidInput, NotFound, StableRepError
from stablerep.v1 import generation_pb2 as pb

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
    """Either a file to upload, or what to name: `upload:ID`, `store:KEY` or a URL.

    Format, column and header are those for the gateway. `description` says what is understood of captions
    that are read on this machine.
    """

    path: Path | None
    uri: str
    format: str
    column: str
    header: bool | None
    description: Description | None = None

    def put_into(self, source: pb.CaptionSource, upload_id: str) -> None:
        """Names the captions in a request."""
        place_captions(
            source,
            f"upload:{upload_id}" if upload_id else self.uri,
            format=self.format,
            column=self.column,
            header=self.header,
        )


@contextmanager
def choose_captions(
    captions: str | os.PathLike[str],
    *,
    format: str = "",
    column: str = "",
    header: bool | None = None,
    limit: int = 0,
    upload: bool = False,
) -> Iterator[ChosenCaptions]:
    """Chooses what to send for `captions`; temporary files last as long as the block.

    Raises:
        InvalidInput: no such file, a damaged one, one whose captions cannot be found, or a URL that cannot be
            read on this machine.
    """
    text = os.fspath(captions)
    remote = "://" in text
    asked = (format, column, header)
    if is_there(text) or (remote and not upload):
        yield ChosenCaptions(None, text, *asked)
        return
    with tempfile.TemporaryDirectory(prefix="stablerep-") as folder:
        with _failures(text):
            chosen = _prepared(text, Path(folder), *asked, limit)
        yield chosen


def _prepared(
    text: str, folder: Path, format: str, column: str, header: bool | None, limit: int
) -> ChosenCaptions:
    """The file to upload; `folder` receives it where it must be made first."""
    if text == "-" or _is_pipe(text):
        text = str(_spooled(text, folder, format))
    many = is_pattern(text) and not Path(text).exists()
    tars = format == "webdataset" or (not format and text.lower().endswith((".tar", ".tar.gz", ".tar.zst")))
    if "://" not in text:
        source = open_source(text if many else caption_source(text))
    elif many or tars:
        source = _remote_source(text)
    else:
        _download(text, folder / _name(text))
        source = open_source(folder / _name(text))
        text = str(folder / _name(text))
    if not _name(text).isprintable() or not _is_utf8(_name(text)):
        raise InvalidInput(
            f"the file name {_name(text)!r} is not UTF-8 text; rename the file", field="captions"
        )
    found = None
    if many or tars or check_format(source.name, format) != "parquet" or find_spec("pyarrow"):
        found = describe(source, format=format, column=column, header=header)
    if not (many or tars):
        return ChosenCaptions(Path(text).expanduser(), "", format, column, header, found)
    path = folder / f"{_name(text).partition('.')[0] or 'captions'}.jsonl.zst"
    _extract(source, path, check_format(source.name, format), column, header, limit)
    return ChosenCaptions(path, "", "jsonl", "", None, found)


def _is_utf8(text: str) -> bool:
    """Whether it has no surrogates, which stand for the bytes of a name that is not UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _is_pipe(text: str) -> bool:
    path = Path(text)
    return path.is_fifo() or (path.is_char_device() and text != os.devnull)


def _spooled(text: str, folder: Path, format: str) -> Path:
    """The content of a pipe as a file, which can be read twice."""
    if not format:
        raise InvalidInput(f"a pipe has no file name; give its format, {', '.join(FORMATS)}", field="format")
    path = folder / "captions"
    with sys.stdin.buffer if text == "-" else Path(text).open("rb") as pipe, path.open("wb") as file:
        shutil.copyfileobj(pipe, file, 1 << 20)
    return path


def _name(text: str) -> str:
    return (text.partition("?")[0] if "://" in text else text).rstrip("/").rpartition("/")[2] or "captions"


def _extract(source: Source, path: Path, format: str, column: str, header: bool | None, limit: int) -> None:
    """Writes the captions of a source as JSON lines; a record without one keeps its place and its reason."""
    captions = 0
    with zstd.open(path, "wt", encoding="utf-8") as file:
        for record in read_records(source, format=format, column=column, header=header):
            line = _FLAWS[record.value] if isinstance(record, Flaw) else {"caption": record}
            file.write(json.dumps(line) + "\n")
            captions += not isinstance(record, Flaw)
            if captions == limit != 0:
                return


def _download(url: str, path: Path) -> None:
    files, name = _file_system(url)
    with files.open(name, "rb") as remote, path.open("wb") as file:
        shutil.copyfileobj(remote, file, 1 << 20)


def _remote_source(url: str) -> Source:
    """The files behind a URL as one source."""
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
    except NotFound as error:
        raise InvalidInput(str(error), field="captions") from error
    except StableRepError:
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
