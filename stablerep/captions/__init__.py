"""Readers of caption sources, and cutting what they read into shards."""

from stablerep.captions.caption import MAX_CHARACTERS, Caption, CaptionReport
from stablerep.captions.description import Description, describe
from stablerep.captions.reading import FORMATS, check_format, cut, read_captions
from stablerep.captions.source import Source, open_source

__all__ = [
    "FORMATS",
    "MAX_CHARACTERS",
    "Caption",
    "CaptionReport",
    "Description",
    "Source",
    "check_format",
    "cut",
    "describe",
    "open_source",
    "read_captions",
]
