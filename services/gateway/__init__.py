"""The gRPC front door: takes captions and jobs, plans them, tells how far they are. Loads no torch."""
