"""Scores relative to a reference model, such as the base before fine-tuning, on the same draws."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from ldm_scale.analysis.results import Estimate, HeldoutChoice, RelativeRow
from ldm_scale.analysis.scores import log_statistics
from ldm_scale.analysis.splithalf import choice_among, judge
from ldm_scale.analysis.summary import share_bound
from ldm_scale.analysis.suspects import SuspectRow
from ldm_scale.config.audit import AnalysisConfig


def log_ratio(target: Float[np.ndarray, "t n"], reference: Float[np.ndarray, "t n"]) -> Float[np.ndarray, "t n"]:
    """log statistic of the reference minus log statistic of the target; higher means member.

    How hard an image is, is alike in both and falls out: calibration by difficulty (Watson et al., "On the Importance
    of Difficulty Calibration in Membership Inference Attacks", ICLR 2022), as a ratio (Carlini et al., "Membership
    Inference Attacks From First Principles", IEEE S&P 2022).

    Args:
        target: scores, minus the statistic, at t timesteps; higher means member.
        reference: of the same samples and draws.

    >>> log_ratio(np.array([[-1.0, -4.0]]), np.array([[-2.0, -4.0]])).round(3)
    array([[0.693, 0.   ]])
    """
    return log_statistics(reference) - log_statistics(target)


def relate(
    attack: str,
    timesteps: Sequence[int | None],
    target: Float[np.ndarray, "t n"],
    reference: Float[np.ndarray, "t n"],
    member: Bool[np.ndarray, " n"],
    config: AnalysisConfig,
    seed: int,
) -> RelativeRow:
    """What an attack says relative to the reference, paired with the target's plain row and the reference's own.

    Each of the three chooses its own timestep on one half of the samples and is judged on the other, on the same halves
    and resamples.

    Args:
        attack: its name.
        timesteps: t of them; None is the mean over all.
        target: plain scores of n samples.
        reference: of the same samples and draws.
        member: who is a member; at least four samples of each side.
        config: halvings, resamples and confidence.
    """
    relative = log_ratio(target, reference)
    scores = {"plain": target, "relative": relative, "reference": reference}
    scorers = {name: choice_among(some, member) for name, some in scores.items()}
    judged = judge(scorers, member, config.repeats, config.bootstrap, config.confidence, seed)
    found = judged["relative"]
    lower = relative[found.pick] > 0
    choice = HeldoutChoice(
        timestep=timesteps[found.pick],
        mask="none",
        drop=0.0,
        metrics=found.metrics,
        delong=found.delong,
        agreement=found.agreement,
        **found.differences(paired=True),
    )
    return RelativeRow(
        attack=attack,
        heldout_choice=choice,
        reference=judged["reference"].delong,
        members_lower=float(lower[member].mean()),
        heldout_lower=float(lower[~member].mean()),
    )


def relate_suspects(attack: str, relative: Float[np.ndarray, " n"], confidence: float) -> SuspectRow:
    """What an attack says of suspects alone.

    Args:
        attack: its name.
        relative: of each suspect the mean of `log_ratio` over the timesteps: without held-out images none is chosen.
        confidence: of the exact binomial interval.

    >>> found = relate_suspects("sima", np.array([0.5, 0.1, -0.2, 0.4]), 0.95)
    >>> found.lower, found.share.value, found.median
    (3, 0.75, 0.25)
    """
    lower, count, tail = int((relative > 0).sum()), len(relative), (1 + confidence) / 2
    return SuspectRow(
        attack=attack,
        lower=lower,
        share=Estimate(
            value=lower / count,
            low=1 - share_bound(count - lower, count, tail),
            high=share_bound(lower, count, tail),
        ),
        median=float(np.median(relative)),
    )
