"""The gRPC front door: takes captions and jobs, plans them, reports their progress. Loads no torch."""
