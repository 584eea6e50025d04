"""Repair: the queue and a job's objects brought to what the store records."""
