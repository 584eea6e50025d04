"""Measurements against what a user would pick instead; `make bench` writes them to benchmarks/results/."""
