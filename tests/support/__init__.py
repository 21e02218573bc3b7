"""What several tests need: an independent reference, drivers, stand-ins."""
