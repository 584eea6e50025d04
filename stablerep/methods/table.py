"""The methods there are. Another one is a file beside this one and a line here."""

from collections.abc import Mapping
from typing import Any

from stablerep.methods.clip import Clip
from stablerep.methods.interface import MethodConfig
from stablerep.methods.mae import Mae
from stablerep.methods.simclr import SimCLR
from stablerep.methods.stablerep import StableRep
from stablerep.methods.stablerep_plus import StableRepPlus
from stablerep.methods.synclr import SynClr

METHODS: dict[str, type[MethodConfig]] = {
    "stablerep": StableRep,
    "stablerep_plus": StableRepPlus,
    "simclr": SimCLR,
    "clip": Clip,
    "mae": Mae,
    "synclr": SynClr,
}


def read_method(value: Any) -> MethodConfig:
    """A method from its name, or from a mapping with `name` and options. Raises ValueError."""
    if isinstance(value, MethodConfig):
        return value
    content = {"name": value} if isinstance(value, str) else value
    if not isinstance(content, Mapping) or not isinstance(content.get("name"), str):
        raise ValueError("want the name of a method, or a mapping with `name` and its options")
    name = content["name"]
    if name not in METHODS:
        raise ValueError(f"no method {name[:80]!r}; there are {', '.join(METHODS)}")
    return METHODS[name].model_validate(dict(content))
