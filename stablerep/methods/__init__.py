"""Methods: what is trained by what. One file each; `table.py` lists them."""

from stablerep.methods.interface import Batch, MethodConfig, Needs, Parts

__all__ = ["Batch", "MethodConfig", "Needs", "Parts"]
