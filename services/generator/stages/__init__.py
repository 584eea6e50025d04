"""The four stages of a worker: fetch, generate on the GPU, encode, upload."""
