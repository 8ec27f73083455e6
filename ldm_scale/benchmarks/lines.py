"""What every benchmark gives: lines, and of them one table and one JSON document."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.table import Table

from ldm_scale.terminal import say_table

WIDTH = 120
SECONDS, SAMPLES, ROWS, BYTES = "s/sample", "samples/s", "rows/s", "GB"


@dataclass(frozen=True)
class Line:
    """One measured quantity of one part of the benchmark.

    value: in `unit`, or a mere number if that is empty. share: of the part's whole, 0 ... 1. bound: the best that
    the value could be, in the same unit: the least seconds, or the highest rate. note: the goal, and what else to know.
    """

    part: str
    what: str
    value: float
    unit: str = ""
    share: float | None = None
    bound: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """value / bound."""
        return None if self.bound is None else self.value / self.bound

    def __str__(self) -> str:
        facts = [f"{number(self.value)} {self.unit}".rstrip()]
        if self.share is not None:
            facts.append(f"{self.share:.1%} of the whole")
        if self.ratio is not None:
            facts.append(f"{self.ratio:.2f} times the bound of {number(self.bound)}")
        return f"{self.part}: {self.what}: " + ", ".join([*facts, *filter(None, [self.note])])


def number(value: float | None) -> str:
    """Three significant digits, whole numbers in full; nothing of none."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def show(lines: Sequence[Line]) -> None:
    """Print the table, one section a part, in plain text of at most 120 columns."""
    table = Table("part", "what", box=None, pad_edge=False)
    for heading in ("value", "unit", "share", "bound", "ratio"):
        table.add_column(heading, justify="left" if heading == "unit" else "right", no_wrap=True)
    table.add_column("note")
    before = None
    for line in lines:
        if before not in (None, line.part):
            table.add_section()
        table.add_row(
            line.part if line.part != before else "",
            line.what,
            number(line.value),
            line.unit,
            "" if line.share is None else f"{line.share:.1%}",
            number(line.bound),
            "" if line.ratio is None else f"{line.ratio:.2f}",
            line.note,
        )
        before = line.part
    say_table(table, WIDTH)


def encode(lines: Sequence[Line], machine: dict[str, object], versions: dict[str, str]) -> bytes:
    """The JSON document: machine, versions, and lines with the fields of Line and their ratio."""
    document = {
        "machine": machine,
        "versions": versions,
        "lines": [{**asdict(line), "ratio": line.ratio} for line in lines],
    }
    return json.dumps(document, indent=2, allow_nan=False).encode()
