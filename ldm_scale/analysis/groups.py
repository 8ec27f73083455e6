"""Groups of samples of like distortion: halves and quartiles, members and held-out together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class Group:
    """Group `number` of `groups` (2: halves, 4: quartiles; 1 is the least distorted), and the rows in it."""

    groups: Literal[2, 4]
    number: int
    rows: Int[np.ndarray, " m"]

    def has_both_sides(self, member: Bool[np.ndarray, " n"]) -> bool:
        """Whether there are members and held-out samples in it."""
        return 0 < int(member[self.rows].sum()) < len(self.rows)


def distortion_groups(distortion: Float[np.ndarray, " n"]) -> list[Group]:
    """The halves, then the quartiles, least distorted first; none if fewer than four samples have a distortion.

    Args:
        distortion: nats; NaN if it was not measured.

    >>> [group.rows.tolist() for group in distortion_groups(np.array([3.0, np.nan, 1.0, 2.0, 4.0]))]
    [[2, 3], [0, 4], [2], [3], [0], [4]]
    """
    measured = np.flatnonzero(np.isfinite(distortion))
    if len(measured) < 4:
        return []
    ordered = measured[np.argsort(distortion[measured], kind="stable")]
    counts: tuple[Literal[2, 4], ...] = (2, 4)
    return [
        Group(groups, number, rows)
        for groups in counts
        for number, rows in enumerate(np.array_split(ordered, groups), start=1)
    ]


def memberships(groups: Sequence[Group], samples: int) -> Bool[np.ndarray, "g n"]:
    """Which of n = `samples` samples are in each of g groups.

    >>> memberships(distortion_groups(np.array([3.0, np.nan, 1.0, 2.0, 4.0])), 5)[0]
    array([False, False,  True,  True, False])
    """
    inside = np.zeros((len(groups), samples), dtype=bool)
    for group, row in zip(groups, inside, strict=True):
        row[group.rows] = True
    return inside
