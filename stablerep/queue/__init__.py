"""The queue of shards on Redis Streams: leases, retries, dead letters, counts, locks."""
