"""Recipes, jobs and the queue of shards between the gateway and the generators."""
