"""From a request to the last planned shard: the source, the captions' objects, the end of planning."""
