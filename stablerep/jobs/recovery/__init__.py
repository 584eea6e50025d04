"""The queue and a job's objects brought into agreement with the store."""
