"""Sweeps: datasets, runs and probes of a grid of settings, drawn as a figure (`stablerep sweep`)."""
