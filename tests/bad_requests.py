"""Strategies of requests that no gateway may accept; each gives one that is wrong in a field or two."""

import string
from typing import Any

from hypothesis import strategies as st

from stablerep.captions import FORMATS
from stablerep.config.names import DATASET_NAME, REQUEST_ID, UPLOAD_ID
from stablerep.config.recipe import Recipe, preset_names
from stablerep.v1 import generation_pb2 as pb

TEXTS = st.characters(exclude_categories=("Cs",))
_NASTY_TEXTS = [
    "../up", "..", ".", "a/../b", "/etc/passwd", "a\x00b", "\x00", "a\nb", "\u202ea", "É", "ａ", "a b", " ",
    "-a", "A", "a" * 64, "a" * 100_000, "%2e%2e", "a%00", "a\\b", "a/b", "jobs/there", "*", "{0..9}", "~",
    "$(id)", "//", "none", "'; DROP TABLE", "\ufeffa", "a\0", "\U0001f600" * 50, "\x7f", "\x1b[31m", "there/",
]  # fmt: skip
NASTY = st.one_of(
    st.sampled_from(_NASTY_TEXTS),
    st.text(TEXTS, max_size=60),
    st.text(string.ascii_lowercase + "/.:\\%-_", min_size=1, max_size=80),
)
INT32 = st.one_of(st.sampled_from([-(2**31), -1, 2**31 - 1]), st.integers(-(2**31), 2**31 - 1))
INT64 = st.one_of(st.sampled_from([-(2**63), -1, 2**63 - 1]), st.integers(-(2**63), 2**63 - 1))
UPLOAD_IDS = st.from_regex(UPLOAD_ID, fullmatch=True).filter(lambda text: text != "half")

BAD_DATASETS = NASTY.filter(lambda text: not DATASET_NAME.fullmatch(text))
BAD_JOB_NAMES = st.one_of(
    BAD_DATASETS.map("jobs/".__add__),
    st.from_regex(DATASET_NAME, fullmatch=True).filter(lambda name: name != "there").map("jobs/".__add__),
    NASTY.filter(lambda text: text != "jobs/there"),
    st.sampled_from(
        ["", "jobs/", "jobs//there", "Jobs/there", "there", "/jobs/there", "jobs/there/shards/0"]
    ),
)
_SCHEMES = ["file", "http", "https", "s3", "hf", "ftp", "gs", "memory", "zip", "simplecache::file", ""]
_HOSTS = ["", "/", "localhost", "127.0.0.1", "169.254.169.254", "[::1]", "a@b", "2130706433", "é"]
_PATHS = ["/etc/passwd", "/captions.txt", "/../outside.txt", "/{0..99}.tar"]
_URI_TEXTS = [
    "../outside.txt", "{0..99999999}.tar", "{9..0}.tar", "*.tar", "*/*.tar", "captions.tx*", "{0..3}.txt",
    "captions.txt/", "./captions.txt", "store:captions.txt", "datasets/there/job", "uploads/half/000000.part",
    "https://data.example/a.txt", "a" * 5000 + ".txt", "a" * 3_000_000,
]  # fmt: skip
BAD_URIS = st.one_of(
    NASTY,
    st.sampled_from(_URI_TEXTS),
    st.builds(
        "{}://{}{}".format,
        st.sampled_from(_SCHEMES),
        st.sampled_from(_HOSTS),
        st.one_of(NASTY, st.sampled_from(_PATHS)),
    ),
).filter(lambda uri: uri != "captions.txt")
_RECIPES = [
    *({"steps": text} for text in ("0", "-1", "1e9", "9" * 400, "nan", "\x00", "")),
    *({"guidance_scale": text} for text in ("nan", "inf", "-1", "1e400", "x")),
    *({"model": text} for text in ("", "/etc", "../../x", "evil/model", "a" * 5000)),
    {"image_size": "0"}, {"image_size": "33"}, {"image_size": "1000000"}, {"save_size": "100000"},
    {"images_per_caption": "0"}, {"images_per_caption": "100"}, {"batch_images": "0"},
    {"jpeg_quality": "101"}, {"dtype": "float64"}, {"sampler": "../x"}, {"captions_per_shard": "5"},
    {"digest": "0"}, {"revision": "x\x00"}, {f"key{number}": "1" for number in range(200)},
]  # fmt: skip
BAD_RECIPES = st.one_of(
    st.sampled_from(_RECIPES),
    st.dictionaries(
        NASTY.filter(lambda key: key not in Recipe.model_fields),
        st.text(TEXTS, max_size=9),
        min_size=1,
        max_size=3,
    ),
)


def source(**fields: Any) -> pb.CaptionSource:
    """A good source, `captions.txt` of the store, with these fields in place of its own."""
    return pb.CaptionSource(**({"uri": "captions.txt"} | fields))


def changed(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """One or two of these bad fields, to be put in place of a good request's."""
    one = st.sampled_from(sorted(fields)).flatmap(lambda name: st.fixed_dictionaries({name: fields[name]}))
    return st.lists(one, min_size=1, max_size=2).map(
        lambda parts: {name: value for part in parts for name, value in part.items()}
    )


BAD_SOURCES = st.one_of(
    BAD_URIS.map(lambda uri: source(uri=uri)),
    NASTY.filter(lambda text: text not in FORMATS and text).map(lambda text: source(format=text)),
    st.sampled_from(["a\x00", "\n", "c" * 1001, "\u202e"]).map(lambda column: source(column=column)),
    st.integers(-(2**63), -1).map(lambda limit: source(limit=limit)),
    st.one_of(NASTY.filter(bool), UPLOAD_IDS, st.just("half")).map(
        lambda text: pb.CaptionSource(upload_id=text)
    ),
    st.just(pb.CaptionSource()),
)
BAD_CREATION = changed(
    dataset=BAD_DATASETS,
    preset=NASTY.filter(lambda text: text not in ("", *preset_names())),
    recipe=BAD_RECIPES,
    source=BAD_SOURCES,
    captions_per_shard=INT32.filter(lambda number: not 0 <= number <= 10_000),
    priority=INT32.filter(lambda number: not 0 <= number <= 9),
    request_id=NASTY.filter(lambda text: text != "" and not REQUEST_ID.fullmatch(text)),
)
BAD_LISTING = changed(
    parent=BAD_JOB_NAMES,
    state=INT32.filter(lambda number: not 0 <= number <= 4),
    page_token=NASTY.filter(bool),
)
_FILE_NAMES = ["", "../a.txt", "/a", "a/b", "a\\b", "a\nb", "a\x00", "é" * 128, "a" * 256, "\u202e", "\x7f"]
_OFFSETS = INT64.filter(lambda number: number != 0)
_TOO_MUCH = st.just(b"x" * ((2 << 20) + 1))
BAD_FIRST_PIECE = changed(
    upload_id=NASTY.filter(lambda text: not UPLOAD_ID.fullmatch(text)),
    file_name=st.sampled_from(_FILE_NAMES),
    offset=_OFFSETS,
    data=_TOO_MUCH,
)
BAD_LATER_PIECE = changed(
    upload_id=NASTY.filter(bool), file_name=NASTY.filter(bool), offset=_OFFSETS, data=_TOO_MUCH
)
