"""How fast the graph and the reducer are, and the suite of all benchmarks."""
