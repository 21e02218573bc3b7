"""Measures what an eviction policy does to a KV cache: engines, load, records, tables."""
