"""One attack's rows in memory, scored by explicit sums: what the streamed reducer must agree with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from ldm_scale.analysis.choices import Choices, chosen_drops
from ldm_scale.analysis.combined import (
    GROUPS,
    group_sums,
    least_positive,
    log_features,
)
from ldm_scale.analysis.groups import distortion_groups, memberships
from ldm_scale.analysis.scan import Scan, scan
from ldm_scale.analysis.scores import Candidate, Mask
from ldm_scale.analysis.splithalf import choosing, judge
from ldm_scale.analysis.summary import AttackSummary, group_aurocs, oracle_metrics, summarise_attack
from ldm_scale.config.audit import AnalysisConfig, dropped_bins


@dataclass(frozen=True)
class Spectra:
    """member: (n,). by_influence, at_random: (n, T, B); globally likewise, where there is one ranking."""

    member: np.ndarray
    timesteps: tuple[int | None, ...]
    by_influence: np.ndarray
    at_random: np.ndarray
    globally: np.ndarray | None = None

    @property
    def bins(self) -> int:
        return self.by_influence.shape[2]

    @property
    def masks(self) -> list[Mask]:
        return [mask for mask in Mask if mask is not Mask.GLOBAL or self.globally is not None]

    def of(self, mask: Mask) -> np.ndarray:
        """The spectra in a mask's order."""
        found = {Mask.GLOBAL: self.globally, Mask.RANDOM: self.at_random}.get(mask, self.by_influence)
        assert found is not None
        return found

    def scores(self, mask: Mask, dropped: int) -> np.ndarray:
        """(n, T)."""
        upper = mask in (Mask.HIGHEST, Mask.RANDOM)
        kept = slice(self.bins - dropped) if upper else slice(dropped, None)
        return -self.of(mask)[:, :, kept].sum(axis=2, dtype=np.float64)

    def read(self, candidates: Sequence[Candidate], step: int) -> tuple[np.ndarray, np.ndarray]:
        scores = np.stack([self.scores(c.mask, c.dropped)[:, c.step] for c in candidates])
        return scores, self.by_influence[:, step]

    def scans(self, config: AnalysisConfig, seed: int, distortion: np.ndarray) -> dict[Mask, Scan]:
        chosen = choosing(self.member, config.repeats, seed)
        groups = memberships(distortion_groups(distortion), len(self.member))
        dropped = dropped_bins(config.drop, self.bins)
        drops = {mask: chosen_drops(mask, self.bins, dropped) for mask in self.masks}
        return {
            mask: scan(self.of(mask), mask, self.member, chosen, drops[mask], groups, {0, dropped})
            for mask in self.masks
        }

    def take(self, rows: np.ndarray) -> "Spectra":
        """The same of some samples."""
        return self._changed(lambda spectra: spectra[rows], member=self.member[rows])

    def averaged(self) -> "Spectra":
        """The mean over all timesteps in place of each of them."""
        return self._changed(lambda spectra: spectra.mean(axis=1, keepdims=True, dtype=np.float64), timesteps=(None,))

    def _changed(self, change: Callable[[np.ndarray], np.ndarray], **others: Any) -> "Spectra":
        globally = None if self.globally is None else change(self.globally)
        return replace(
            self, by_influence=change(self.by_influence), at_random=change(self.at_random), globally=globally, **others
        )


def summary_of(
    rows: Spectra, distortion: np.ndarray, geometry: np.ndarray, config: AnalysisConfig, seed: int
) -> AttackSummary:
    """The results of SimA's rows alone."""
    member, choices = rows.member, Choices.of(rows, rows.scans(config, seed, distortion), config)
    scorers = choices.scorers(geometry, member, seed)
    judged = judge(scorers, member, config.repeats, config.bootstrap, config.confidence, seed)
    aurocs = [group_aurocs([choices], group, member, config, seed)[0] for group in distortion_groups(distortion)]
    oracles = oracle_metrics([choices], member, config, seed)[0]
    ids = pa.array([f"shard/{i:04d}" for i in range(len(member))])
    return summarise_attack("sima", choices, [*judged.values()], oracles, aurocs, member, ids, distortion, config)


def features_of(spectra: list[np.ndarray], groups: int = GROUPS) -> np.ndarray:
    sums = group_sums(spectra, groups)
    return log_features(sums, least_positive(sums))
