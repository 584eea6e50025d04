"""Captions from JSON lines and from annotation documents, held against Python's own `json`."""

import io
import json
import tracemalloc
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stablerep.captions import Caption, CaptionReport, Source, read_captions
from stablerep.errors import InvalidInput


def read(name: str, data: bytes | str, **options: Any) -> tuple[list[Caption], dict[str, int]]:
    """Captions, and the counters that are not zero."""
    content = data if isinstance(data, bytes) else data.encode()
    report = CaptionReport()
    found = Source(name, len(content), lambda: io.BytesIO(content))
    captions = list(read_captions(found, report=report, **options))
    return captions, {name: count for name, count in asdict(report).items() if count}


def test_lines_are_objects_or_strings_and_others_are_counted() -> None:
    lines = [
        b'{"caption": "one", "url": "http://x"}', b'"two"', b'{"TEXT": "three"}', b'{"raw_caption": "four"}',
        b"{broken", b'{"other": 1}', b"", b"[1]", b"3", b'{"caption": null}', b'{"caption": 5}',
        b'{"caption": ""}', b'{"caption": "\xff"}', b'{"caption": "\\ud800"}', b"[" * 200_000,
        b'{"caption": "\\ud83d\\udc5f"}',
    ]  # fmt: skip
    captions, counts = read("a.jsonl", b"\n".join(lines))
    assert captions == [(0, "one"), (1, "two"), (2, "three"), (3, "four"), (15, "👟")]
    assert counts == {
        "lines": 16, "captions": 5, "malformed": 4, "missing_column": 2, "empty": 3, "bad_encoding": 2,
    }  # fmt: skip


def test_a_field_that_no_line_has_is_named() -> None:
    for column in ("words", None):
        with pytest.raises(InvalidInput) as caught:
            read("a.jsonl", '{"x": "a"}\n{"y": "b"}\n', column=column)
        assert caught.value.field == "column"
    assert read("a.jsonl", '{"x": "a"}\n{"y": "b"}\n', column="y")[0] == [(1, "b")]


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
# Invisible characters and fillers do not come through; they have tests of their own.
CAPTION = st.text(
    st.characters(
        exclude_categories=["Cs", "Cc", "Cf", "Z"],
        exclude_characters="\u115f\u1160\u2800\u3164\uffa0" + "".join(map(chr, range(0xFE00, 0xFE10))),
    ),
    min_size=1,
    max_size=30,
)
RECORD = st.builds(
    lambda extra, caption: {**extra, "caption": caption}, st.dictionaries(CAPTION, VALUE), CAPTION
)


@settings(max_examples=60, deadline=None)
@given(st.lists(RECORD, min_size=1, max_size=10), st.booleans())
def test_whatever_pythons_json_writes_as_lines_is_read_back(
    records: list[dict[str, Any]], ascii: bool
) -> None:
    data = "\n".join(json.dumps(record, ensure_ascii=ascii) for record in records)
    assert read("a.jsonl", data)[0] == [(n, record["caption"]) for n, record in enumerate(records)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(RECORD, min_size=1, max_size=10),
    st.dictionaries(CAPTION, VALUE, max_size=3),
    st.sampled_from([None, 1]),
    st.sampled_from([1, 2, 3, 7, 50]),
)
def test_whatever_pythons_json_writes_as_a_document_is_read_back_at_any_block_size(
    records: list[dict[str, Any]], beside: dict[str, Any], indent: int | None, block: int
) -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(block, size) if size and size > 0 else size)

    document = {**beside, "annotations": records, "after": [1, 2]}
    content = json.dumps(document, indent=indent, ensure_ascii=False).encode()
    found = Source("a.json", len(content), lambda: Slow(content))
    assert list(read_captions(found)) == [(n, record["caption"]) for n, record in enumerate(records)]


def test_a_name_written_as_usual_goes_before_one_in_other_case() -> None:
    assert read("a.jsonl", '{"CAPTION": null, "caption": "a boot"}')[0] == [(0, "a boot")]
    assert read("a.jsonl", '{"CAPTION": "a bag"}')[0] == [(0, "a bag")]


def test_redcaps_annotations_give_the_cleaned_caption_unless_the_raw_one_is_asked_for() -> None:
    document = {
        "info": {"start_date": "2017-01-01", "url": "https://redcaps.xyz"},
        "annotations": [
            {"image_id": "5zhx1b", "raw_caption": "My Dog!!", "caption": "my dog", "subreddit": "pics"},
            {"image_id": "5zhx1c", "raw_caption": "[OC]", "caption": ""},
            {"image_id": "5zhx1d", "raw_caption": "A cat", "caption": "a cat"},
        ],
    }
    captions, counts = read("dogs_2017.json", json.dumps(document, indent=2))
    assert captions == [(0, "my dog"), (2, "a cat")]
    assert counts == {"lines": 3, "captions": 2, "empty": 1}
    assert [c.text for c in read("d.json", json.dumps(document), column="raw_caption")[0]] == [
        "My Dog!!", "[OC]", "A cat",
    ]  # fmt: skip


def test_a_coco_document_and_a_bare_list_are_read_too() -> None:
    annotations = [{"image_id": 1, "caption": "a shoe"}, {"image_id": 1, "caption": "a boot"}]
    coco = {"images": [{"id": n, "file_name": "x" * 100} for n in range(3000)], "annotations": annotations}
    assert read("captions_val2017.json", json.dumps(coco))[0] == [(0, "a shoe"), (1, "a boot")]
    assert read("list.json", json.dumps(annotations))[0] == [(0, "a shoe"), (1, "a boot")]
    assert read("list.json", json.dumps(["a shoe", 5]))[0] == [(0, "a shoe")]


def test_a_badly_encoded_annotation_costs_itself_alone() -> None:
    data = b'\xef\xbb\xbf{"annotations": [{"caption": "a"}, {"caption": "\xff"}, {"caption": "b"}]}'
    assert read("a.json", data) == ([(0, "a"), (2, "b")], {"lines": 3, "captions": 2, "bad_encoding": 1})


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ('{"info": 12}', "jsonl"),
        ('{"caption": "a"}\n{"caption": "b"}\n', "jsonl"),
        ('{"annotations": {"a": 1}}', "list"),
        ("12", "list"),
        ('{"annotations": [{"caption": "a"} {"caption": "b"}]}', "','"),
        ('{"annotations": [{"caption": "a"}, {"capt', "character"),
        ('{"annotations": [{"caption": "a"}', "','"),
        ('{"annotations": [{"caption": "a"}], "annotations": [{"caption": "b"}]}', "second list"),
        ('{"annotations": [,]}', "character"),
        ('{"info": [1, 2, "annotations": []}', "character"),
        ("{'annotations': []}", "annotations"),
        ('{"annotations": []}', "no usable caption"),
        ("", "no usable caption"),
        ("  \n ", "no usable caption"),
        ("[" * 300_000, "character"),
    ],
)
def test_a_document_that_is_not_one_of_annotations_is_an_error(data: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        read("a.json", data)


def test_a_document_is_streamed() -> None:
    class Document(io.RawIOBase):
        """Makes a document of many megabytes as it is read."""

        def __init__(self) -> None:
            self._pieces = self._make()

        def _make(self) -> Iterator[bytes]:
            yield b'{"info": {}, "annotations": ['
            for number in range(60_000):
                yield b'{"caption": "caption %d", "url": "%s"},' % (number, b"x" * 200)
            yield b'{"caption": "last"}]}'

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            return next(self._pieces, b"")

        def seek(self, offset: int, whence: int = 0) -> int:
            self._pieces = self._make()
            return 0

    tracemalloc.start()
    try:
        [last] = deque(read_captions(Source("a.json", 0, Document)), maxlen=1)  # type: ignore[arg-type]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert last == (60_000, "last")
    assert peak < 2 << 20
