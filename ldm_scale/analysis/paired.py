"""Runs over the same samples side by side, such as before and after a defence; differences are paired by sample."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import spearmanr

from ldm_scale.analysis.comparison import Agreement, ChangedMember, ComparedRanking, ComparedRow
from ldm_scale.analysis.ranking import influence_ranks
from ldm_scale.analysis.results import RowName
from ldm_scale.analysis.splithalf import choice_among, judge
from ldm_scale.analysis.summary import heldout_above
from ldm_scale.config.audit import AnalysisConfig

# Members that are named for each run and attack.
CHANGED = 10


@dataclass(frozen=True)
class ComparedScores:
    """An attack's scores in one run, of the n samples that all runs have.

    timesteps: T of them; None is the mean over all. rows: for each row its scores at every timestep, (T, n).
    """

    timesteps: tuple[int | None, ...]
    rows: Mapping[RowName, Float[np.ndarray, "t n"]]


@dataclass(frozen=True)
class ComparedAttack:
    """The parts of a Comparison that come from one attack."""

    rows: list[ComparedRow]
    agreement: list[Agreement]
    changed: list[ChangedMember]


def compare_attack(
    attack: str,
    runs: Sequence[ComparedScores],
    member: Bool[np.ndarray, " n"],
    sample_ids: Sequence[str],
    config: AnalysisConfig,
    seed: int,
) -> ComparedAttack:
    """What one attack says of the same samples in several runs, each compared with the first.

    Every run chooses its own timestep on one half of the samples and is judged on the other; halves and bootstrap
    resamples are the same for all, so that differences are paired by sample.

    Args:
        attack: its name.
        runs: its scores in two runs or more.
        member: who is a member; at least four samples of each side.
        sample_ids: of the n samples.
        config: halvings, resamples and confidence.
    """
    rows: list[ComparedRow] = []
    plain: list[np.ndarray] = []
    for row in (name for name in get_args(RowName) if all(name in run.rows for run in runs)):
        scorers = {str(number): choice_among(run.rows[row], member) for number, run in enumerate(runs)}
        judged = judge(scorers, member, config.repeats, config.bootstrap, config.confidence, seed)
        for number, (run, found) in enumerate(zip(runs, judged.values(), strict=True)):
            step = run.timesteps[found.pick]
            differences = found.differences(number > 0)
            rows.append(
                ComparedRow(attack=attack, row=row, run=number, timestep=step, metrics=found.metrics, **differences)
            )
        if row == "plain":
            plain = [run.rows[row][judged[str(number)].pick] for number, run in enumerate(runs)]
    agreement = [
        Agreement(attack=attack, run=number, correlation=float(spearmanr(plain[0][member], scores[member])[0]))
        for number, scores in enumerate(plain[1:], 1)
    ]
    return ComparedAttack(rows, agreement, _changed(attack, plain, member, sample_ids))


def _changed(
    attack: str, plain: Sequence[Float[np.ndarray, " n"]], member: Bool[np.ndarray, " n"], sample_ids: Sequence[str]
) -> list[ChangedMember]:
    members, heldout = np.flatnonzero(member), (~member).sum()
    shares = [heldout_above(scores, member, members) / heldout for scores in plain]
    before = shares[0]
    found = []
    for run, after in enumerate(shares[1:], 1):
        most = np.argsort(-np.abs(after - before), kind="stable")[:CHANGED]
        found += [
            ChangedMember(
                attack=attack, run=run, sample_id=sample_ids[members[i]], before=float(before[i]), after=float(after[i])
            )
            for i in most
            if after[i] != before[i]
        ]
    return found


def compare_ranking(
    run: int, first: Float[np.ndarray, " d"], other: Float[np.ndarray, " d"], drop: float
) -> ComparedRanking:
    """How alike two runs rank the latent dimensions.

    Args:
        run: the other one's place.
        first: mean influence of each dimension in the first run.
        other: in the other.
        drop: share of the dimensions that counts as lowest; ceil(drop * D) of them.

    >>> found = compare_ranking(1, np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 2.0, 4.0]), 0.5)
    >>> round(found.correlation, 3), found.overlap
    (0.8, 0.5)
    """
    count = int(np.ceil(drop * len(first) - 1e-9))
    low = [influence_ranks(values[None])[0] < count for values in (first, other)]
    return ComparedRanking(
        run=run, correlation=float(spearmanr(first, other)[0]), overlap=float((low[0] & low[1]).sum() / count)
    )
