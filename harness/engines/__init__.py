"""Engines under test: one file an engine behind the interface in ``base``."""
