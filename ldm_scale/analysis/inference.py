"""Dataset inference: one p-value that a whole set of samples was trained on, from all halvings of them."""

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import ttest_ind

from ldm_scale.analysis.results import DatasetInference


def aggregate(p_values: Float[np.ndarray, " k"]) -> float:
    """One p-value from k of one hypothesis, however they depend on each other: twice their median, at most 1.

    If the hypothesis holds, the expected share of p-values up to a / 2 is a / 2 at most, so by Markov's inequality half
    of them or more are with a chance of a at most (Meinshausen, Meier & Buhlmann, JASA 2009; DiCiccio, DiCiccio &
    Romano, Statistics & Probability Letters 2020).

    >>> aggregate(np.array([0.001, 0.01, 0.2])), aggregate(np.array([0.4, 0.6]))
    (0.02, 1.0)
    """
    return min(1.0, 2 * float(np.median(p_values)))


def infer_dataset(
    odds: Float[np.ndarray, "r n"], chosen: Bool[np.ndarray, "r n"], suspect: Bool[np.ndarray, " n"]
) -> DatasetInference:
    """Whether suspects score higher than held-out samples: Welch's one-sided t-test of each half of each halving.

    Compare Dubinski et al., "CDI: Copyrighted Data Identification in Diffusion Models", CVPR 2025. If both sides have
    one distribution, a fit on one half knows nothing of the other, and each p is uniform. The 2 r of them depend on
    each other; `aggregate` makes one of them that no single halving decides.

    Args:
        odds: log odds of n samples on each of r halvings; a sample's come from a fit on the half that it is not in.
        chosen: which half a sample is in, on each halving (`splithalf.choosing`).
        suspect: which samples may have been trained on; at least two in each half, as of the others.

    >>> rng, suspect = np.random.default_rng(0), np.arange(80) < 40
    >>> chosen = np.arange(80)[None] % 2 == 0
    >>> infer_dataset(rng.standard_normal((1, 80)) + 2 * suspect, chosen, suspect).p_value < 1e-4
    True
    """
    tested = [(row[half], suspect[half]) for row, one in zip(odds, chosen, strict=True) for half in (one, ~one)]
    tests = [ttest_ind(row[side], row[~side], equal_var=False, alternative="greater") for row, side in tested]
    return DatasetInference(
        p_value=aggregate(np.array([test.pvalue for test in tests])),
        statistic=float(np.median([test.statistic for test in tests])),
        tests=len(tests),
        members=int(suspect.sum()),
        heldout=int((~suspect).sum()),
    )
