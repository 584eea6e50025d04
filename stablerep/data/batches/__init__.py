"""The order of batches, and loading a rank's part of each."""
