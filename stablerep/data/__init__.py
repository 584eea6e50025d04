"""From shards to training batches: which groups and images a step sees, decoding them, augmenting them."""

from stablerep.data.corpus.groups import GroupDataset

__all__ = ["GroupDataset"]
