"""Logs of requests, in the formats that people have: one file a family of formats."""
