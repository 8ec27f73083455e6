"""Runs over the same samples, read from their directories and compared."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int

from ldm_scale.analysis.comparison import ComparedRanking, ComparedRun, Comparison
from ldm_scale.analysis.paired import ComparedScores, compare_attack, compare_ranking
from ldm_scale.analysis.results import RowName
from ldm_scale.analysis.scores import Candidate, Mask
from ldm_scale.config.audit import FEWEST, AnalysisConfig, dropped_bins
from ldm_scale.errors import UsageError
from ldm_scale.notebook.run import Run


def compare(runs: Sequence[str | Run], config: AnalysisConfig | None = None) -> Comparison:
    """Compare finished runs over the same samples: each with the first, paired by sample.

    Args:
        runs: two or more, or their addresses: the one before, then those after; checkpoints in their order.
        config: drop share, halvings, resamples and confidence; by default the first run's.

    Raises:
        UsageError: There are fewer than two, or they have no attack or too few samples in common.
    """
    opened = [run if isinstance(run, Run) else Run(run) for run in runs]
    if len(opened) < 2:
        raise UsageError("compare: give two runs or more")
    first = opened[0]
    config = config or first.record.config.analysis
    attacks = [name for name in first.attacks if all(name in run.attacks for run in opened)]
    if not attacks:
        made = "; ".join(f"{run.directory.root}: {', '.join(run.attacks)}" for run in opened)
        raise UsageError(f"the runs have no attack in common ({made})")
    shared, member = _shared(opened)
    places = [pc.index_in(shared, value_set=run.index.sample_id).to_numpy() for run in opened]
    seed, ids = first.record.config.seed, shared.to_pylist()
    found = []
    for attack in attacks:
        scores = [_scores(run, attack, config.drop, here) for run, here in zip(opened, places, strict=True)]
        found.append(compare_attack(attack, scores, member, ids, config, seed))
    return Comparison(
        runs=tuple(map(_described, opened)),
        members=int(member.sum()),
        heldout=int((~member).sum()),
        drop=config.drop,
        repeats=config.repeats,
        bootstrap=config.bootstrap,
        confidence=config.confidence,
        rows=tuple(row for one in found for row in one.rows),
        agreement=tuple(pair for one in found for pair in one.agreement),
        changed=tuple(change for one in found for change in one.changed),
        rankings=tuple(_rankings(opened, config.drop)),
        warnings=tuple(_warnings(opened, len(shared))),
    )


def _shared(runs: Sequence[Run]) -> tuple[pa.LargeStringArray, Bool[np.ndarray, " n"]]:
    """Ids of the samples that all runs have a row of, on the same side, sorted; and who is a member."""
    ids, member = runs[0].index.sample_id, runs[0].index.member
    kept = np.ones(len(ids), dtype=bool)
    for run in runs[1:]:
        place = pc.index_in(ids, value_set=run.index.sample_id)
        found = place.is_valid().to_numpy(zero_copy_only=False)
        kept &= found
        same = run.index.member[pc.fill_null(place, 0).to_numpy()] == member
        if (found & ~same).any():
            odd = ids[int(np.flatnonzero(found & ~same)[0])]
            raise UsageError(
                f"{run.directory.root}: the sample {odd} is on another side than in {runs[0].directory.root}"
            )
    ids, member = ids.filter(pa.array(kept)), member[kept]
    if min(member.sum(), (~member).sum()) < FEWEST:
        raise UsageError(
            f"the runs have {member.sum()} members and {(~member).sum()} held-out samples in common; {FEWEST} of each "
            "are needed: samples are known by shard and key"
        )
    return ids, member


def _scores(run: Run, attack: str, drop: float, places: Int[np.ndarray, " n"]) -> ComparedScores:
    rows = run.attack_rows(attack)
    dropped = dropped_bins(drop, rows.bins)
    cuts: dict[RowName, tuple[Mask, int]] = {"plain": (Mask.LOWEST, 0)}
    cuts |= {mask.value: (mask, dropped) for mask in rows.masks}
    steps = range(len(rows.timesteps))
    found, _ = rows.read([Candidate(*cut, step) for cut in cuts.values() for step in steps], step=0)
    columns = found[:, places].reshape(len(cuts), len(steps), -1)
    return ComparedScores(rows.timesteps, dict(zip(cuts, columns, strict=True)))


def _described(run: Run) -> ComparedRun:
    return ComparedRun(
        run=str(run.directory.root),
        fingerprint=run.record.fingerprint,
        members=run.results.members,
        heldout=run.results.heldout,
        p_value=run.results.combined.inference.p_value,
    )


def _rankings(runs: Sequence[Run], drop: float) -> list[ComparedRanking]:
    means = [run.ranking().sort_values("dimension")["mean"].to_numpy() for run in runs]
    shape = runs[0].record.latent_shape
    return [
        compare_ranking(number, means[0], means[number], drop)
        for number, run in enumerate(runs)
        if number and run.record.latent_shape == shape
    ]


def _pairing(run: Run) -> dict[str, object]:
    """What pairs the scores of a sample in two runs: the same draws, of the same image."""
    config = run.record.config
    return {"seed": config.seed, "latent": config.latent, "shards": run.record.science["shards"]}


def _warnings(runs: Sequence[Run], shared: int) -> Iterator[str]:
    first, pairing = runs[0], _pairing(runs[0])
    for run in runs[1:]:
        if other := [name for name, value in _pairing(run).items() if value != pairing[name]]:
            yield f"{run.directory.root} differs in {', '.join(other)} from {first.directory.root}"
    for run in runs:
        if (left := len(run.index.sample_id) - shared) > 0:
            yield f"{run.directory.root}: {left} samples are left out, as not all runs have a row of them"
