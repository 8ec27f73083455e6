"""The paper's table by the rules of its authors' published code, in plain loops over single dimensions and thresholds.

Lower statistic means member. Held-out samples are the positives; a threshold calls positive whatever is not below it.
Knows nothing of bins, scans or the project's metrics.
"""

import math
from collections.abc import Callable, Iterable

import numpy as np

Cell = tuple[float, set[int]]


def kept_dimensions(row: str, influence: np.ndarray, at_random: np.ndarray, share: float) -> list[int]:
    """The dimensions that one sample keeps: `share` of D are dropped, rounded up by influence and down at random."""
    count = len(influence)
    up, down = math.ceil(share * count - 1e-9), math.floor(share * count + 1e-9)
    by_influence, by_chance = np.argsort(influence, kind="stable"), np.argsort(at_random, kind="stable")
    return {
        "plain": by_influence,
        "lowest": by_influence[up:],
        "highest": by_influence[: count - down],
        "random": by_chance[: count - down],
    }[row].tolist()


def statistics(powers: np.ndarray, kept: Iterable[list[int]]) -> np.ndarray:
    """(n, T) sums over each sample's kept dimensions of |S|^p, powers (n, T, D)."""
    return np.array(
        [[sum(step[i] for i in dims) for step in sample] for sample, dims in zip(powers, kept, strict=True)]
    )


def rates(statistic: np.ndarray, member: np.ndarray) -> list[tuple[float, float, int, int]]:
    """At each threshold: TPR, FPR, and of how many members how many are misjudged."""
    found = []
    for threshold in [*sorted(set(statistic)), math.inf]:
        hits = misses = 0
        for value, is_member in zip(statistic, member, strict=True):
            if value >= threshold:
                misses += bool(is_member)
                hits += not is_member
        members = int(member.sum())
        found.append((hits / (len(member) - members), misses / members, misses, members))
    return found


def auroc(statistic: np.ndarray, member: np.ndarray) -> float:
    """The share of pairs whose held-out sample is higher; ties count half."""
    points = 0.0
    for theirs in statistic[~member]:
        for ours in statistic[member]:
            points += 1.0 if theirs > ours else 0.5 if theirs == ours else 0.0
    return points / (int(member.sum()) * int((~member).sum()))


def success(statistic: np.ndarray, member: np.ndarray) -> float:
    return max((tpr + 1 - fpr) / 2 for tpr, fpr, _, _ in rates(statistic, member))


def tpr_below_one_percent(statistic: np.ndarray, member: np.ndarray) -> float:
    """In whole numbers: misses / members < 1 / 100."""
    return max(tpr for tpr, _, misses, members in rates(statistic, member) if 100 * misses < members)


def best(metric: Callable[[np.ndarray, np.ndarray], float], values: np.ndarray, member: np.ndarray) -> Cell:
    """The highest value over timesteps, values (n, T), and the numbers of those that reach it."""
    found = [metric(column, member) for column in values.T]
    return max(found), {step for step, value in enumerate(found) if value > max(found) - 1e-9}


def by_distortion(values: np.ndarray, member: np.ndarray, distortion: np.ndarray, groups: int) -> list[Cell | None]:
    """The AUROC in each group at the best timestep within it; earlier groups take what cannot be shared evenly."""
    order = sorted((i for i in range(len(distortion)) if not math.isnan(distortion[i])), key=lambda i: distortion[i])
    found: list[Cell | None] = []
    for number in range(groups):
        size = len(order) // groups + (number < len(order) % groups)
        start = number * (len(order) // groups) + min(number, len(order) % groups)
        rows = order[start : start + size]
        both = {bool(member[i]) for i in rows} == {True, False}
        found.append(best(auroc, values[rows], member[rows]) if both else None)
    return found
