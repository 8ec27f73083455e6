"""What all figures of the report share: the look of each mask, small multiples by attack, SVG as a data URI."""

import base64
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Inches of a panel, by how many stand side by side.
PANELS = {1: (5.2, 3.6), 2: (5.3, 3.2), 3: (3.55, 2.8)}
# Inches below the panels, for the legend.
SPARE = 0.35
# Names that fit beside each other under several panels.
LEGEND = 5
# Typed as any mapping: how matplotlib types its settings differs between its versions.
LOOK: dict[Any, Any] = {
    # A fixed salt gives the same bytes for the same results; a "$" in an attack's name starts no formula.
    "svg.hashsalt": "ldm_scale",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.edgecolor": "#767676",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.constrained_layout.h_pad": 0.1,
}


@dataclass(frozen=True)
class Style:
    """How one mask looks in every figure and table: not by colour alone, but by line and marker."""

    colour: str
    line: str
    marker: str
    label: str


# Black, grey and five of Okabe and Ito's colours, which colour-blind readers can distinguish.
STYLES = {
    "plain": Style("#000000", "-", "o", "plain"),
    "lowest": Style("#0072b2", "-", "s", "lowest dropped"),
    "global": Style("#56b4e9", "--", "P", "global lowest dropped"),
    "random": Style("#8c8c8c", "--", "^", "random dropped"),
    "highest": Style("#d55e00", "-.", "v", "highest dropped"),
    "chosen": Style("#009e73", ":", "D", "chosen share"),
    "geometry": Style("#cc79a7", "-", "X", "geometry-adjusted"),
}


@dataclass(frozen=True)
class Plot:
    """An SVG image, and in words what it shows."""

    svg: bytes
    alt: str

    @property
    def uri(self) -> str:
        """The image as a data URI."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg).decode()


def as_plot(figure: Figure, alt: str) -> Plot:
    """The figure as one SVG image; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", dpi=160, metadata={"Date": None, "Creator": None})
    return Plot(buffer.getvalue(), alt)


def panels(titles: dict[str, str], draw: Callable[[Axes, str], None], x: str, y: str) -> Figure:
    """One panel an attack, all on the same scales, with one legend.

    Args:
        titles: attack to panel title.
        draw: draws one attack, with labels for the legend.
        x: label of the horizontal axis.
        y: label of the vertical axis.
    """
    columns = 2 if len(titles) == 4 else min(len(titles), max(PANELS))
    rows = math.ceil(len(titles) / columns)
    width, height = PANELS[columns]
    figure = Figure(figsize=(width * columns, height * rows + SPARE), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel().tolist()
    for i, (axes, (attack, title)) in enumerate(zip(grid, titles.items(), strict=False)):
        draw(axes, attack)
        axes.set_title(title)
        axes.set_xlabel(x if i + columns >= len(titles) else "")
    for axes in grid[::columns]:
        axes.set_ylabel(y)
    for unused in grid[len(titles) :]:
        unused.set_axis_off()
    _legend(figure, grid[0], columns)
    return figure


def _legend(figure: Figure, axes: Axes, columns: int) -> None:
    """One legend for all panels; none for a single curve."""
    handles, names = axes.get_legend_handles_labels()
    widest = LEGEND if columns > 1 else 3
    if len(names) > 1:
        across = len(names) if len(names) <= widest else math.ceil(len(names) / math.ceil(len(names) / widest))
        figure.legend(handles, names, loc="outside lower center", ncols=across, handlelength=2.6)
