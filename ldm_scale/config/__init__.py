"""One frozen, typed configuration tree; Python, YAML and the command line use the same names."""
