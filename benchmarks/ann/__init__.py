"""The index benchmark: python -m benchmarks.ann; see `__main__`."""
