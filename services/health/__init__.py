"""Liveness and readiness of a process over HTTP, and the probe that asks (standard library alone)."""
