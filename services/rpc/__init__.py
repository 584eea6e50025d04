"""A gRPC server as every process runs it: callers, errors, limits, metrics, TLS."""
