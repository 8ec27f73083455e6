"""The combined score of all attacks together, and the dataset inference that rests on it."""

import numpy as np
from jaxtyping import Bool, Float

from ldm_scale.analysis.combined import combined_scorer, log_features
from ldm_scale.analysis.inference import infer_dataset
from ldm_scale.analysis.results import Combined
from ldm_scale.analysis.splithalf import halves, judge
from ldm_scale.analysis.summary import as_metric_set, estimate
from ldm_scale.config import AnalysisConfig


def combine(
    spectra: list[Float[np.ndarray, "n _ _"]], member: Bool[np.ndarray, " n"], config: AnalysisConfig, seed: int
) -> Combined:
    """What all attacks' spectra (n, T, B) say together: metrics of the combined score, and one p-value."""
    features = log_features(spectra)
    scorers = {"combined": combined_scorer(features, member)}
    judged = judge(scorers, member, config.repeats, config.bootstrap, config.confidence, seed)["combined"]
    return Combined(
        features=features.shape[1],
        metrics=as_metric_set(judged.values, judged.intervals),
        delong=estimate(judged.values[0], judged.auroc),
        inference=infer_dataset(features, member, *halves(member, seed, 0)),
    )
