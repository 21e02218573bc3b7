"""Benchmarks of our own code: paired runs, medians and ratios; never part of the tests."""
