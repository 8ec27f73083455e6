"""What is derived from a run's rows: numbered sets of files, of which readers see one.

Who reduces a run writes metrics.parquet, ranking.parquet and, at last, results.json into reductions/NUMBER, the next
number; report.html is added. The highest number that has results.json is what readers see: a job that was taken for
dead and wakes up can only write into a set that nobody looks at any more.

Copies of that set lie beside run.json. Each of them is whole, and all but results.json bear its SHA-256, so that it is
seen if they were opened in the middle of a change.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from ldm_scale.errors import ContentError, ExistsError, UsageError
from ldm_scale.files.ownership import NUMBER, Ownership
from ldm_scale.files.storage import MOST, Location, encode_table, read_table, sub_locations

RESULTS, METRICS, RANKING, REPORT = "results.json", "metrics.parquet", "ranking.parquet", "report.html"
# In the metadata of the Parquet files: the SHA-256 of the results that they belong to.
STAMP = "results"


@dataclass(frozen=True)
class Reduction:
    """One whole set."""

    folder: Location

    def read_results(self) -> bytes:
        """The bytes of results.json."""
        return (self.folder / RESULTS).read_bytes(MOST)

    def read_ranking(self) -> pa.Table:
        """ranking.parquet; raises ContentError if it is not of these results."""
        file = self.folder / RANKING
        table = read_table(file)
        if (table.schema.metadata or {}).get(STAMP.encode()) != stamp_of(self.read_results()).encode():
            raise ContentError(f"{file} is not of the results beside it; run `ldm-scale reduce RUN` again")
        return table

    def write_report(self, owner: Ownership, page: bytes) -> None:
        """Add report.html, which may be made again."""
        owner.check()
        (self.folder / REPORT).replace(page)


def stamp_of(results: bytes) -> str:
    """What the files of a set bear: the SHA-256 of its results.json."""
    return hashlib.sha256(results).hexdigest()


def latest_reduction(root: Location) -> Reduction:
    """The set of a run directory that readers see; raises UsageError if there is none."""
    found = _latest(root)
    if found is None:
        raise UsageError(f"{root} has no results.json; run `ldm-scale reduce RUN` first")
    return found


def _latest(root: Location) -> Reduction | None:
    whole = [number for number, names in _sets(root).items() if RESULTS in names]
    return Reduction(_folder(root, max(whole))) if whole else None


def _folder(root: Location, number: int) -> Location:
    return root / "reductions" / f"{number:06d}"


def _sets(root: Location) -> dict[int, set[str]]:
    """The files of each set, by its number."""
    found: dict[int, set[str]] = defaultdict(set)
    for path, _ in sub_locations(root / "reductions", ""):
        if match := re.fullmatch(rf"({NUMBER})/([^/]+)", path, re.ASCII):
            found[int(match[1])].add(match[2])
    return found


def write_reduction(owner: Ownership, results: bytes, tables: Mapping[str, pa.Table]) -> None:
    """Write a set that readers see from now on, or nothing that they would see; `tables` by the names of their files.

    Raises:
        RunError: The run is another job's by now.
        ExistsError: Another job has just taken this number.
    """
    root = owner.claim.root
    folder = _folder(root, max(_sets(root), default=0) + 1)
    metadata = {STAMP: stamp_of(results)}
    contents = {name: encode_table(table.replace_schema_metadata(metadata)) for name, table in tables.items()}
    for name, content in (*contents.items(), (RESULTS, results)):
        owner.check()
        try:
            (folder / name).create(content)
        except ExistsError:
            # The number is that of the job, most likely, which has just taken over.
            owner.check()
            raise


def publish(owner: Ownership) -> None:
    """Copy what readers see beside run.json.

    Raises:
        RunError: The run is another job's by now.
    """
    for name in (METRICS, RANKING, REPORT, RESULTS):
        owner.check()
        _copy(owner.claim.root, name)


def _copy(root: Location, name: str) -> None:
    """Copy a file of the latest set, and again if another one is the latest by then: nothing is put back for good."""
    copied = None
    while (latest := _latest(root)) != copied:
        if latest is not None and (latest.folder / name).is_file():
            (root / name).replace((latest.folder / name).read_bytes())
        copied = latest
