"""The combined score of all attacks together, and the dataset inference that rests on it."""

import numpy as np
from jaxtyping import Bool, Float

from ldm_scale.analysis.inference import infer_dataset
from ldm_scale.analysis.results import Combined
from ldm_scale.analysis.splithalf import Judged, Scorer, choosing
from ldm_scale.analysis.summary import as_metric_set, estimate
from ldm_scale.config.audit import AnalysisConfig


def combined_scorer(odds: Float[np.ndarray, "r n"]) -> Scorer:
    """One candidate: the log odds by the classifier that was fitted on the halving's choosing half.

    Args:
        odds: of all n samples, on each of r halvings, by a classifier of the half that a sample is not in.
    """
    return lambda halving, _, report: (0, odds[halving, report])


def combine(
    odds: Float[np.ndarray, "r n"],
    features: int,
    judged: Judged,
    member: Bool[np.ndarray, " n"],
    config: AnalysisConfig,
    seed: int,
) -> Combined:
    """What all attacks' spectra say together: metrics of the combined score, and one p-value.

    Args:
        odds: log odds of all samples, on each halving by a classifier of the half that a sample is not in.
        features: how many a classifier weighs.
        judged: what they reach over all halvings.
        member: who is a member.
        config: the number of halvings.
        seed: of the halvings.
    """
    return Combined(
        features=features,
        metrics=as_metric_set(judged.values, judged.intervals),
        delong=estimate(judged.values[0], judged.auroc),
        inference=infer_dataset(odds, choosing(member, config.repeats, seed), member),
    )
