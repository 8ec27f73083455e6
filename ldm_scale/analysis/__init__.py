"""From rows to numbers: rankings, scores, metrics with intervals, held-out choices. NumPy only; no model, no Ray."""
