"""Runs as jobs: what is asked for, its records in the store, and who starts its processes. No torch."""
