"""How fast and how large the engine's parts are, each measured beside what it is compared with."""
