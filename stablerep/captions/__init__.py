"""Readers of caption sources, and cutting what they read into shards."""

from stablerep.captions.caption import Caption

__all__ = ["Caption"]
