"""Labelled photographs that probes are measured on."""
