"""Evaluation of frozen encoders: features, linear probe, few labels, kNN, the paper's probe, export."""

from stablerep.evaluation.encoders import load_encoder, random_encoder
from stablerep.evaluation.export import export_encoder
from stablerep.evaluation.features import FrozenEncoder, extract_features
from stablerep.evaluation.probe import ProbeResult, format_table, paper_probe, probe_model, probe_table

__all__ = [
    "FrozenEncoder",
    "ProbeResult",
    "export_encoder",
    "extract_features",
    "format_table",
    "load_encoder",
    "paper_probe",
    "probe_model",
    "probe_table",
    "random_encoder",
]
