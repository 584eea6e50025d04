"""What is trained on: the groups of datasets, and which captions share their positives."""
