"""Captions behind URLs: which may be read, and a reader for each scheme."""
