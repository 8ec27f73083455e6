"""From rows to numbers: rankings, score tables, metrics with intervals, calibration. NumPy only; no model, no Ray."""
