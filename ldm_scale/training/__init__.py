"""Training of targets, without Ray: networks, losses, the optimiser's step, and what is stored."""
