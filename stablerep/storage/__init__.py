"""Object stores: a local folder or an S3 bucket behind one small interface."""

from stablerep.storage.interface import ObjectInfo, S3Access, Store
from stablerep.storage.open import open_store

__all__ = ["ObjectInfo", "S3Access", "Store", "open_store"]
