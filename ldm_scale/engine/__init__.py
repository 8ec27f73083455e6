"""Everything that runs on Ray; no other package imports it."""
