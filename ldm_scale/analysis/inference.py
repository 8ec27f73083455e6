"""Dataset inference: one p-value that a whole set of samples was trained on, from all halvings of them."""

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import norm, ttest_ind

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


def detectable(members: int, heldout: int, level: float = 0.05, power: float = 0.8) -> float:
    """The AUROC of scores from which on the aggregated p is `level` at most in a share `power` of cases.

    Of normal scores with spread 1 on both sides, whose means are d apart: AUROC = Phi(d / sqrt 2), and Welch's t of a
    half is normal with mean d / sqrt(2 / members + 2 / heldout) and spread 1. The median of the halves' p is to be
    level / 2. That their median varies less than one of them, as they share samples, is not counted on.

    >>> [round(detectable(n, n), 2) for n in (75, 150, 300, 1000)]
    [0.68, 0.63, 0.59, 0.55]
    """
    distance = (norm.isf(level / 2) + norm.ppf(power)) * (2 / members + 2 / heldout) ** 0.5
    return float(norm.cdf(distance / 2**0.5))


def higher(scores: Float[np.ndarray, " n"], suspect: Bool[np.ndarray, " n"]) -> tuple[float, float]:
    """Welch's t, and one-sided p, that suspects score higher than the others; at least two of each.

    >>> t, p = higher(np.array([1.0, 2.0, 3.0, 0.0, 1.0, 2.0]), np.arange(6) < 3)
    >>> round(t, 3), round(p, 3)  # 1 / sqrt(1 / 3 + 1 / 3), 4 degrees of freedom
    (1.225, 0.144)
    """
    test = ttest_ind(scores[suspect], scores[~suspect], equal_var=False, alternative="greater")
    return float(test.statistic), float(test.pvalue)


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
    halves = [(row[half], suspect[half]) for row, one in zip(odds, chosen, strict=True) for half in (one, ~one)]
    statistics, p_values = zip(*(higher(*half) for half in halves), strict=True)
    members, heldout = int(suspect.sum()), int((~suspect).sum())
    return DatasetInference(
        p_value=aggregate(np.array(p_values)),
        statistic=float(np.median(statistics)),
        tests=len(halves),
        members=members,
        heldout=heldout,
        detectable=detectable(members, heldout),
    )
