"""What is asked of an engine: seeded request sequences, written to one file each."""
