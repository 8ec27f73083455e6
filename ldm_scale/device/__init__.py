"""What a device has and holds: memory, transfers, times, and the keyed draws made on it."""
