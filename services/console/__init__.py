"""The console: web pages of jobs, images, runs and sweeps, by the public gRPC API and the store's layout."""
