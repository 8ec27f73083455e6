"""Dataset inference: one p-value that a whole set of samples was trained on."""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import ttest_ind

from ldm_scale.analysis.combined import combined_scorer
from ldm_scale.analysis.results import DatasetInference


def infer_dataset(
    features: Float[np.ndarray, "n f"],
    member: Bool[np.ndarray, " n"],
    choose: Int[np.ndarray, " a"],
    report: Int[np.ndarray, " b"],
) -> DatasetInference:
    """Welch's one-sided t-test that suspects score higher than held-out samples (cf. CDI, CVPR 2025).

    The score is a classifier's log odds, fitted on the rows `choose` and tested on the rows `report`: under the
    hypothesis that both sides have one distribution, the fit knows nothing of the tested rows and p is uniform.
    """
    _, scores = combined_scorer(features, member)(choose, report)
    suspect = member[report]
    test = ttest_ind(scores[suspect], scores[~suspect], equal_var=False, alternative="greater")
    members, heldout = int(suspect.sum()), int((~suspect).sum())
    return DatasetInference(p_value=test.pvalue, statistic=test.statistic, members=members, heldout=heldout)
