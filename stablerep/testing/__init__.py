"""Real servers and processes for tests and benchmarks of what is built on this: no mocks."""
