"""What became of everything that a pack saw in its source."""

from collections.abc import Iterator

from ldm_scale.config.base import Record
from ldm_scale.files.storage import Location, read_model

COUNTS = "counts.json"


class Skipped(Record):
    """What one rule skips: how many, and the first."""

    count: int
    first: str


class Counts(Record):
    """counts.json: `seen` is the sum of all others but `captioned` and `classed`.

    seen: files, and images and entries inside of files that hold many. taken: images that are packed. rejected: images
    with a reason in rejects.json. near_duplicates: images that are removed because they show what another shows.
    not_drawn: images that neither side takes. read: files and entries that say something of images or hold them.
    skipped: all else, by rule. captioned, classed: how many of those taken have a caption and a class; None if an
    older release has packed them.
    """

    seen: int
    taken: int
    rejected: int
    near_duplicates: int
    not_drawn: int
    read: int
    skipped: dict[str, Skipped]
    captioned: int | None = None
    classed: int | None = None

    def check(self) -> None:
        """Raise AssertionError if something that was seen is nowhere: that is a fault of ours."""
        skipped = sum(rule.count for rule in self.skipped.values())
        found = self.taken + self.rejected + self.near_duplicates + self.not_drawn + self.read + skipped
        assert self.seen == found, f"{self} does not add up"


def describe(folder: Location) -> Iterator[str]:
    """The counts of a pack, as lines to read; none if an older release has packed it."""
    if not (folder / COUNTS).is_file():
        return
    counts = read_model(folder / COUNTS, Counts, "the counts of a pack")
    total = sum(rule.count for rule in counts.skipped.values())
    yield (
        f"  seen {counts.seen}: {counts.taken} taken, {counts.rejected} rejected, {counts.near_duplicates} "
        f"near-duplicates, {counts.not_drawn} not drawn, {counts.read} read for what they say or hold, {total} skipped"
    )
    if counts.captioned is not None:
        yield f"  of those taken {counts.captioned} with a caption, {counts.classed} with a class"
    for rule, found in counts.skipped.items():
        yield f"    skipped, {rule}: {found.count} (the first: {found.first})"
