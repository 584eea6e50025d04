"""Evaluation of frozen encoders: features, linear probe, few labels, kNN, the paper's probe."""

from stablerep.evaluation.features import extract_features
from stablerep.evaluation.probe import ProbeResult, format_table, paper_probe, probe_model, probe_table

__all__ = [
    "ProbeResult",
    "extract_features",
    "format_table",
    "paper_probe",
    "probe_model",
    "probe_table",
]
