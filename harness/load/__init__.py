"""Load drivers: they send a workload's requests to an engine and record what comes back."""
