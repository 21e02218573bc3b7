"""Engines under test: one folder an engine, behind what ``base`` says; ``registry`` has all."""
