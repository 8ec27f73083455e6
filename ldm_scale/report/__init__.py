"""Plots and one self-contained HTML page, from the run directory alone."""
