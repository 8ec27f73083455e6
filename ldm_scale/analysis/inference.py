"""Dataset inference: one p-value that a whole set of samples was trained on."""

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import ttest_ind

from ldm_scale.analysis.results import DatasetInference


def infer_dataset(scores: Float[np.ndarray, " b"], suspect: Bool[np.ndarray, " b"]) -> DatasetInference:
    """Welch's one-sided t-test that suspects score higher than held-out samples.

    Compare Dubinski et al., "CDI: Copyrighted Data Identification in Diffusion Models", CVPR 2025. If both sides have
    one distribution, the fit knows nothing of these samples and p is uniform.

    Args:
        scores: a classifier's log odds of samples that it was not fitted on.
        suspect: which of them may have been trained on; at least two on each side.

    >>> scores = np.array([1.0, 2.0, 3.0, 0.0, 1.0, 2.0])
    >>> found = infer_dataset(scores, np.arange(6) < 3)  # t = 1 / sqrt(1 / 3 + 1 / 3), 4 degrees of freedom
    >>> round(found.statistic, 3), round(found.p_value, 3)
    (1.225, 0.144)
    """
    test = ttest_ind(scores[suspect], scores[~suspect], equal_var=False, alternative="greater")
    members, heldout = int(suspect.sum()), int((~suspect).sum())
    return DatasetInference(p_value=test.pvalue, statistic=test.statistic, members=members, heldout=heldout)
