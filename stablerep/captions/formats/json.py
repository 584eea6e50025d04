"""Captions in JSON: one object or string a line, or a document with a list of annotations (RedCaps, COCO)."""

import codecs
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from stablerep.captions.caption import Flaw, clean
from stablerep.captions.formats.characters import lines, utf8
from stablerep.captions.formats.columns import usual_column
from stablerep.captions.formats.options import Options
from stablerep.errors import InvalidInput

MAX_RECORD_CHARACTERS = 4 << 20
MAX_SKIPPED_CHARACTERS = 256 << 20  # what stands beside the annotations: the `images` of COCO are 40 MB
FIRST_READ = 1 << 16
SPACE = " \t\r\n"


def read_jsonl(file: BinaryIO, options: Options) -> Iterator[str | Flaw]:
    """A line is an object with a caption, or a plain string."""
    for line in lines(file, options):
        yield line if isinstance(line, Flaw) else _line(line, options.column)


def read_annotations(file: BinaryIO, options: Options) -> Iterator[str | Flaw]:
    """`{"annotations": [{"caption": ...}, ...]}` as RedCaps and COCO have it, or the list alone; streamed.

    Raises InvalidInput where the document is not JSON, has no such list or more than one, or ends before or
    after the end of the file: unlike a line, what is wrong cannot be skipped.
    """
    text = _Text(utf8(file, options))
    if not text.peek():
        return
    in_object = text.peek() == "{"
    if in_object:
        text.take("{")
        if not _find_annotations(text):
            raise text.error(
                "there is no list 'annotations'; for one JSON object a line give the format jsonl"
            )
    if text.peek() != "[":
        raise text.error("expected a list of annotations")
    text.take("[")
    while text.peek() != "]":
        record = text.value(MAX_RECORD_CHARACTERS)
        yield _record(record, options.column)
        if text.peek() != "]":
            text.take(",")
    text.take("]")
    if in_object:
        if text.peek() == ",":
            text.take(",")
            if _find_annotations(text):
                raise text.error("there is a second list 'annotations'")
        text.take("}")
    if text.peek():
        raise text.error("more follows the document; give one file a document, or the format jsonl")


def _line(line: bytes, column: str | None) -> str | Flaw:
    if not line.strip():
        return Flaw.EMPTY
    try:
        return _record(json.loads(line.decode()), column)
    except UnicodeDecodeError:
        return Flaw.BAD_ENCODING
    except (ValueError, RecursionError):
        return Flaw.MALFORMED


def _record(record: Any, column: str | None) -> str | Flaw:
    if isinstance(record, str) and column is None:
        return clean(record)
    if not isinstance(record, dict):
        return Flaw.MALFORMED
    name = column if column is not None else usual_column(record)
    text = record.get(name)
    if text is None and name in record:
        return Flaw.EMPTY
    return clean(text) if isinstance(text, str) else Flaw.MISSING_COLUMN


def _find_annotations(text: "_Text") -> bool:
    """Moves past the next `"annotations":` of the object; False at an end of its members."""
    while text.peek() == '"':
        name = text.value(MAX_RECORD_CHARACTERS)
        text.take(":")
        if name == "annotations":
            return True
        text.value(MAX_SKIPPED_CHARACTERS)
        if text.peek() == ",":
            text.take(",")
    return False


class _Text:
    """Characters of a JSON document, taken value by value; holds little more than one value at a time."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
        self._buffer = ""
        self._start = 0  # of what was not taken yet
        self._taken = 0  # characters of the document before the buffer
        self._ended = False

    def peek(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            while self._start < len(self._buffer):
                if self._buffer[self._start] not in SPACE:
                    return self._buffer[self._start]
                self._start += 1
            if not self._read(FIRST_READ):
                return ""

    def take(self, character: str) -> None:
        if self.peek() != character:
            raise self.error(f"expected {character!r}")
        self._start += 1

    def value(self, limit: int) -> Any:
        """The JSON value that starts here. A failed try doubles what is read next: the cost stays linear."""
        self.peek()
        more = FIRST_READ
        while True:
            try:
                value, end = json.JSONDecoder().raw_decode(self._buffer, self._start)
            except (ValueError, RecursionError) as error:
                if len(self._buffer) - self._start > limit or not self._read(more):
                    raise self.error(str(error)) from error
            else:
                # A number before the end of the buffer may go on behind it: "1" of "1e+" of "1e+5".
                if end + 2 < len(self._buffer) or not self._read(FIRST_READ):
                    self._start = end
                    return value
            more *= 2

    def error(self, problem: str) -> InvalidInput:
        position = self._taken + self._start
        return InvalidInput(f"no JSON of annotations at character {position}: {problem}", field="source")

    def _read(self, size: int) -> bool:
        """Adds to the buffer and drops what was taken; at the end, changes nothing and is False."""
        added = ""
        while not added and not self._ended:
            data = self._file.read(size)
            self._ended = not data
            added = self._decoder.decode(data, final=self._ended)
        if not added:
            return False
        self._taken += self._start
        self._buffer = self._buffer[self._start :] + added
        self._start = 0
        return True
