"""What a cell leaves behind: request records, telemetry, summary, provenance."""
