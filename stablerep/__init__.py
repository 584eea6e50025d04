"""StableRep: learn visual encoders from synthetic images (library; the services live in `services/`)."""

__version__ = "0.1.0"
