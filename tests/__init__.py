"""The tests of this repository; `make test` runs them all."""
