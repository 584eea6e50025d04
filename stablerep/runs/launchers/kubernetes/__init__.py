"""Runs as jobs of a Kubernetes cluster: a JobSet where it has that resource, else an Indexed Job."""
