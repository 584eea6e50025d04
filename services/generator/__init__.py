"""The generator: a GPU's worker, which takes leases and writes shards, and its gRPC."""
