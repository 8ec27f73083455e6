"""Dataset inference: Welch's test by hand."""

import numpy as np
import pytest
from scipy.stats import t

from ldm_scale.analysis.inference import infer_dataset


def test_it_is_welchs_one_sided_test() -> None:
    rng = np.random.default_rng(0)
    suspect = rng.permutation(np.arange(101) % 3 == 0)
    scores = rng.standard_normal(101) * (1 + suspect) + 0.4 * suspect
    result = infer_dataset(scores, suspect)
    ours, theirs = scores[suspect], scores[~suspect]
    a, b = ours.var(ddof=1) / len(ours), theirs.var(ddof=1) / len(theirs)
    statistic = (ours.mean() - theirs.mean()) / (a + b) ** 0.5
    freedom = (a + b) ** 2 / (a**2 / (len(ours) - 1) + b**2 / (len(theirs) - 1))
    assert result.statistic == pytest.approx(statistic)
    assert result.p_value == pytest.approx(t.sf(statistic, freedom))
    assert (result.members, result.heldout) == (34, 67)


def test_suspects_that_score_lower_are_no_evidence() -> None:
    suspect = np.arange(80) % 2 == 0
    result = infer_dataset(np.random.default_rng(0).standard_normal(80) - 2.0 * suspect, suspect)
    assert result.statistic < 0
    assert result.p_value > 0.99
