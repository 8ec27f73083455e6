"""The rows of a run as the reducer reads them: one part at a time, each sample once, in the order of sample ids."""

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float

from ldm_scale.analysis.scores import Candidate, Mask, averaged, mask_score
from ldm_scale.errors import RunError
from ldm_scale.files.parts import Balance, Plan, ReadPart, first_of
from ldm_scale.files.rundir import RunDirectory, RunRecord
from ldm_scale.files.storage import Location, read_ahead, read_table
from ldm_scale.schema import Order, as_array, spectrum_column

# Parts that are fetched while another is worked on, and held meanwhile.
AHEAD = 4
# What ranks the dimensions that a mask drops.
ORDERS: dict[Mask, Order] = {
    Mask.LOWEST: "influence",
    Mask.GLOBAL: "global",
    Mask.RANDOM: "random",
    Mask.HIGHEST: "influence",
}
MEASURED = ("stability_correlation", "stability_overlap")


@dataclass(frozen=True)
class Part:
    """The rows of one part that count (not those that an earlier part also has), and their places in the order."""

    file: Location
    rows: np.ndarray
    places: np.ndarray


@dataclass(frozen=True)
class Index:
    """The samples, sorted by id, with the small columns of each, and where their rows are.

    rejected: ids of samples with a reject and no row, sorted. balance: how they make up what the run was asked for.
    """

    balance: Balance
    rejected: list[str]
    parts: list[Part]
    sample_id: pa.LargeStringArray
    member: np.ndarray
    distortion: np.ndarray
    stability: np.ndarray


def build_index(files: list[Location], plan: Plan, rejected: list[str], reject_parts: list[ReadPart]) -> Index:
    """Read the small columns of every row of the run; of equal ids the first one counts, as rows are pure.

    Args:
        files: parts of rows.
        plan: what they may hold.
        rejected: ids of samples with a reject.
        reject_parts: those of rejects, as they were read.
    """
    read = list(plan.read_rows(files, ["sample_id", "member", "distortion", *MEASURED], AHEAD))
    own = [(part.file, part.table) for part in read if part.table is not None]
    tables = [table for _, table in own]
    if not tables:
        raise RunError(first_of([part.fault or "" for part in read]))
    starts = np.cumsum([0, *map(len, tables)])
    table = pa.concat_tables(tables)
    # Ids of 100 million samples are more than the 2 GB that an array of plain strings holds.
    ids = table["sample_id"].cast(pa.large_string()).combine_chunks()
    # Stable; by UTF-8 bytes, which is by code points.
    order = pc.array_sort_indices(ids)
    ids = ids.take(order)
    first = np.append(True, pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False))[: len(ids)]
    position = order.to_numpy()[first].astype(np.int64)
    number = np.searchsorted(starts, position, side="right") - 1
    places = np.argsort(number, kind="stable")
    bounds = np.searchsorted(number[places], np.arange(len(own) + 1))
    parts = []
    for (file, _), start, begin, end in zip(own, starts, bounds, bounds[1:], strict=False):
        if begin < end:
            here = places[begin:end]
            parts.append(Part(file, position[here] - start, here))
    table = table.drop_columns("sample_id").combine_chunks().take(pa.array(position))
    ids = ids.filter(pa.array(first))
    refused = pa.array(sorted(rejected), pa.large_string())
    rejected = refused.filter(pc.invert(pc.is_in(refused, value_set=ids))).to_pylist()
    return Index(
        plan.balance(ids, rejected, [*read, *reject_parts]),
        rejected,
        parts,
        ids,
        table["member"].to_numpy(),
        table["distortion"].to_numpy(),
        np.stack([table[name].to_numpy() for name in MEASURED], axis=1),
    )


def read_index(run: RunDirectory) -> Index:
    """The index of a run.

    Raises:
        RunError: Something there is not the run's, or there are no rows.
    """
    plan = run.plan()
    rejects, parts = run.read_rejects(plan)
    index = build_index(run.parts(), plan, list(rejects), parts)
    index.balance.check_own()
    return index


def stream(parts: Sequence[Part], columns: Sequence[str]) -> Iterator[tuple[Part, list[np.ndarray]]]:
    """Columns of fixed-size lists, part by part: the arrays (rows, values) of the rows that count."""
    tables = read_ahead(partial(read_table, columns=list(columns)), [part.file for part in parts], AHEAD)
    for part, table in zip(parts, tables, strict=True):
        if empty := next((name for name in columns if table[name].null_count), None):
            raise RunError(f"{part.file}: some rows have no {empty}")
        rows = _run(part.rows)
        yield part, [as_array(table, column)[rows] for column in columns]


def _run(places: np.ndarray) -> np.ndarray | slice:
    """Places as a slice if each follows on the one before: it is copied without being looked up, or not at all."""
    return slice(places[0], places[-1] + 1) if (np.diff(places) == 1).all() else places


@dataclass(frozen=True)
class StoredRows:
    """One attack's rows in the parts of a run, read again for every question (see analysis.scores.AttackRows)."""

    index: Index
    name: str
    timesteps: tuple[int | None, ...]
    stored: int
    bins: int
    ranked: bool

    @classmethod
    def of(
        cls, index: Index, name: str, timesteps: tuple[int, ...], bins: int, ranked: bool, mean: bool
    ) -> "StoredRows":
        """The rows of the attack `name`.

        Args:
            index: of the run.
            name: of the attack.
            timesteps: those that the rows hold.
            bins: of a spectrum.
            ranked: whether there are spectra by one ranking for all samples.
            mean: whether the attack's statistic is the mean over its timesteps.
        """
        return cls(index, name, (None,) if mean else timesteps, len(timesteps), bins, ranked)

    @property
    def member(self) -> np.ndarray:
        return self.index.member

    @property
    def masks(self) -> list[Mask]:
        return [mask for mask in Mask if mask is not Mask.GLOBAL or self.ranked]

    @property
    def _kind(self) -> type[np.floating]:
        return np.float64 if self.timesteps == (None,) else np.float32

    def column(self, mask: Mask) -> str:
        """The column of the spectra that a mask sums."""
        return spectrum_column(self.name, ORDERS[mask])

    def _stream(self, columns: Sequence[str]) -> Iterator[tuple[np.ndarray, dict[str, Float[np.ndarray, "p t b"]]]]:
        """The places and spectra of each part."""
        for part, arrays in stream(self.index.parts, columns):
            spectra = [array.reshape(-1, self.stored, self.bins) for array in arrays]
            if self.timesteps == (None,):
                spectra = [averaged(spectrum) for spectrum in spectra]
            yield part.places, dict(zip(columns, spectra, strict=True))

    def spectra(self, column: str, steps: slice) -> Float[np.ndarray, "n t b"]:
        """The spectra of a column at some timesteps; in memory a bin's values of all samples lie side by side."""
        count = len(self.timesteps[steps])
        found = np.empty((count, self.bins, len(self.member)), dtype=self._kind)
        for places, spectra in self._stream([column]):
            found[:, :, places] = spectra[column][:, steps].transpose(1, 2, 0)
        return found.transpose(2, 0, 1)

    def read(
        self, candidates: Sequence[Candidate], step: int
    ) -> tuple[Float[np.ndarray, "k n"], Float[np.ndarray, "n b"]]:
        """Some scores of all samples, and the statistic in each bin of influence rank at one timestep."""
        scores = np.empty((len(candidates), len(self.member)))
        bins = np.empty((len(self.member), self.bins), dtype=self._kind)
        columns = sorted({self.name, *(self.column(candidate.mask) for candidate in candidates)})
        for places, spectra in self._stream(columns):
            bins[places] = spectra[self.name][:, step]
            for row, candidate in zip(scores, candidates, strict=True):
                values = spectra[self.column(candidate.mask)][:, candidate.step]
                row[places] = mask_score(values, candidate.mask, candidate.dropped)
        return scores, bins


def attack_rows(index: Index, record: RunRecord, name: str, average: Container[str]) -> StoredRows:
    """The rows of the attack `name` in a run; those of attacks in `average` stand for the mean over their timesteps."""
    masks = record.config.masks
    return StoredRows.of(index, name, record.timesteps[name], masks.bins, masks.ranking is not None, name in average)
