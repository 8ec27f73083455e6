"""A run beside the audit of a reference model: scores relative to it, sample by sample, as Ray tasks."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from jaxtyping import Float, Int

from ldm_scale.analysis.relative import log_ratio, relate, relate_suspects
from ldm_scale.analysis.results import Relative, RelativeRow
from ldm_scale.analysis.scores import Candidate, Mask
from ldm_scale.analysis.suspects import Suspects, SuspectScore
from ldm_scale.config.audit import FEWEST, AnalysisConfig
from ldm_scale.engine.rows import Index, attack_rows, read_index
from ldm_scale.errors import RunError
from ldm_scale.files.digests import differences
from ldm_scale.files.reductions import RESULTS
from ldm_scale.files.rundir import RunDirectory, RunRecord

# What of a fingerprint may differ between a target and its reference: what they are.
WEIGHTS = ("target", "family", "lora")
# Suspects that are named.
NAMED = 10


def shared(one: Index, other: Index) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """The places, in either run, of the samples that both have a row of."""
    place = pc.index_in(one.sample_id, value_set=other.sample_id)
    return np.flatnonzero(place.is_valid().to_numpy(zero_copy_only=False)), place.drop_null().to_numpy()


@dataclass(frozen=True)
class Pairing:
    """A run, its reference, and how they are reduced."""

    run: RunRecord
    reference: RunRecord
    config: AnalysisConfig

    @classmethod
    def of(cls, run: RunDirectory, reference: RunDirectory, config: AnalysisConfig) -> "Pairing":
        """Raises RunError if they were asked anything else than of two models."""
        records = run.read_record(), reference.read_record()
        ours, theirs = (
            {name: value for name, value in record.science.items() if name not in WEIGHTS} for record in records
        )
        if found := differences(ours, theirs):
            raise RunError(f"{reference.root} is no audit of a reference for {run.root}: {'; '.join(found)}")
        return cls(*records, config)

    def scores(
        self, index: Index, other: Index, name: str
    ) -> tuple[tuple[int | None, ...], Float[np.ndarray, "t n"], Float[np.ndarray, "t n"]]:
        """The timesteps, and the plain scores of the shared samples by target and reference."""
        sides = zip((self.run, self.reference), (index, other), shared(index, other), strict=True)
        found = []
        for record, rows_of, places in sides:
            rows = attack_rows(rows_of, record, name, self.config.average)
            plain = [Candidate(Mask.LOWEST, 0, step) for step in range(len(rows.timesteps))]
            found.append(rows.read(plain, step=0)[0][:, places])
        return rows.timesteps, found[0], found[1]


_read_index = ray.remote(read_index)


@ray.remote
def _relate(index: Index, other: Index, name: str, pairing: Pairing) -> RelativeRow:
    member = index.member[shared(index, other)[0]]
    return relate(name, *pairing.scores(index, other, name), member, pairing.config, pairing.run.config.seed)


@ray.remote
def _relate_suspects(index: Index, other: Index, name: str, pairing: Pairing) -> Float[np.ndarray, " n"]:
    _, target, reference = pairing.scores(index, other, name)
    return log_ratio(target, reference).mean(axis=0)


def relate_run(run: RunDirectory, handed: ray.ObjectRef, config: AnalysisConfig) -> Relative | None:
    """What is said of a run relative to its reference; None if there is no finished audit of one.

    Args:
        run: its directory.
        handed: its index.
        config: how it is reduced.

    Raises:
        RunError: The reference was asked something else, or too few samples are in both.
    """
    directory = run.reference()
    if not (directory.root / RESULTS).is_file():
        return None
    pairing, handed_other = Pairing.of(run, directory, config), _read_index.remote(directory)
    index, other = ray.get([handed, handed_other])
    here, _ = shared(index, other)
    members, heldout = int(index.member[here].sum()), int((~index.member[here]).sum())
    if min(members, heldout) < FEWEST:
        raise RunError(f"{directory.root}: only {members} members and {heldout} held-out samples have rows in both")
    rows = [_relate.remote(handed, handed_other, name, pairing) for name in pairing.run.timesteps]
    return Relative(
        target=pairing.reference.science["target"],
        fingerprint=pairing.reference.fingerprint,
        members=members,
        heldout=heldout,
        left_out=len(index.member) + len(other.member) - 2 * len(here),
        rows=tuple(ray.get(rows)),
    )


def relate_suspects_of(run: RunDirectory, reference: RunDirectory, config: AnalysisConfig) -> tuple[Suspects, pa.Table]:
    """What is said of a run of members alone relative to its reference; and each one's score by each attack.

    Raises:
        RunError: The reference was asked something else, or no sample is in both.
    """
    pairing = Pairing.of(run, reference, config)
    handed = [_read_index.remote(directory) for directory in (run, reference)]
    index, other = ray.get(handed)
    here, _ = shared(index, other)
    if not len(here):
        raise RunError(f"{reference.root}: no sample has a row in both")
    names = list(pairing.run.timesteps)
    scores = ray.get([_relate_suspects.remote(*handed, name, pairing) for name in names])
    table = pa.table({"sample_id": index.sample_id.take(pa.array(here)), **dict(zip(names, scores, strict=True))})
    highest = table.take(np.argsort(-scores[0], kind="stable")[:NAMED]).to_pylist()
    found = Suspects(
        fingerprint=pairing.run.fingerprint,
        target=pairing.run.science["target"],
        reference_fingerprint=pairing.reference.fingerprint,
        reference=pairing.reference.science["target"],
        suspects=len(here),
        left_out=len(index.member) + len(other.member) - 2 * len(here),
        confidence=config.confidence,
        rows=tuple(relate_suspects(*pair, config.confidence) for pair in zip(names, scores, strict=True)),
        highest=tuple(
            SuspectScore(sample_id=row["sample_id"], attack=names[0], score=row[names[0]]) for row in highest
        ),
    )
    return found, table
