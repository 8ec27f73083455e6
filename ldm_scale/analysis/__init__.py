"""From rows to numbers: rankings, scores, metrics with intervals, held-out choices. NumPy only; no model, no Ray.

Of n samples, `member` says who is a member; there is at least one sample of each side. Scores are finite, and a higher
one means member. `seed` is that of the analysis and of every draw in it, `confidence` that of intervals, in (0, 1).
"""
