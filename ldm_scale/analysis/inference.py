"""Dataset inference: one p-value that a whole set of samples was trained on."""

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import ttest_ind

from ldm_scale.analysis.results import DatasetInference


def infer_dataset(scores: Float[np.ndarray, " b"], suspect: Bool[np.ndarray, " b"]) -> DatasetInference:
    """Welch's one-sided t-test that suspects score higher than held-out samples (cf. CDI, CVPR 2025).

    scores: a classifier's log odds of samples that it was not fitted on. Under the hypothesis that both sides have one
    distribution, the fit knows nothing of them and p is uniform.
    """
    test = ttest_ind(scores[suspect], scores[~suspect], equal_var=False, alternative="greater")
    members, heldout = int(suspect.sum()), int((~suspect).sum())
    return DatasetInference(p_value=test.pvalue, statistic=test.statistic, members=members, heldout=heldout)
