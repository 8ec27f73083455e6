"""The data set's mean influence and dropped share as maps over the latent, one for each channel."""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.figure import Figure

from ldm_scale.report.figures import LOOK, Plot, as_plot

# Inches: the widest a panel gets, the width that all panels share, the gap between them, the colour bar's part.
PANEL, WIDTH, GAP, BAR = 2.2, 8.9, 0.1, 0.9
TITLE = 0.25


@dataclass(frozen=True)
class LatentMaps:
    """Mean influence c_i (nats) and the share of samples that drop a dimension, each (C, h, w)."""

    influence: Float[np.ndarray, "c h w"]
    dropped: Float[np.ndarray, "c h w"]

    @classmethod
    def of(cls, ranking: pa.Table, latent_shape: tuple[int, int, int]) -> "LatentMaps":
        """The maps that ranking.parquet holds, whatever the order of its rows."""
        place = tuple(ranking[name].to_numpy() for name in ("channel", "row", "column"))
        influence, dropped = np.full(latent_shape, np.nan), np.full(latent_shape, np.nan)
        influence[place] = ranking["mean"].to_numpy()
        dropped[place] = ranking["dropped_share"].to_numpy()
        return cls(influence, dropped)

    def agreement(self) -> float:
        """The share of dimensions that at least 90% or at most 10% of the samples drop."""
        return float(((self.dropped >= 0.9) | (self.dropped <= 0.1)).mean())


def _draw(values: Float[np.ndarray, "c h w"], palette: str, low: float, high: float, label: str) -> Figure:
    """One panel a channel and a colour bar, placed by hand so that two such figures line up."""
    channels, rows, columns = values.shape
    across = min(channels, 4 if channels <= 8 else 8)
    down = math.ceil(channels / across)
    side = min(PANEL, WIDTH / across - GAP)
    cell_width, cell_height = side + GAP, side * rows / columns + TITLE
    width, height = cell_width * across + BAR, cell_height * down + GAP
    figure = Figure(figsize=(width, height))
    for channel in range(channels):
        left, top = channel % across * cell_width, height - channel // across * cell_height
        box = (left / width, (top - cell_height) / height, side / width, (cell_height - TITLE) / height)
        axes = figure.add_axes(box)
        image = axes.imshow(values[channel], cmap=palette, vmin=low, vmax=high, interpolation="nearest", aspect="auto")
        axes.set_title(f"channel {channel}", pad=3)
        axes.set_axis_off()
    bar = figure.add_axes(((width - BAR) / width, GAP / height, 0.14 / width, (height - GAP - TITLE) / height))
    figure.colorbar(image, cax=bar, label=label)
    return figure


def _in_words(what: str, values: Float[np.ndarray, "c h w"]) -> str:
    means = ", ".join(f"channel {c} {mean:.3f}" for c, mean in enumerate(values.mean(axis=(1, 2))))
    return f"{what} over the latent, one map for each channel; means: {means}."


@rc_context(LOOK)
def plot_influence(maps: LatentMaps) -> Plot:
    """Mean influence, on one colour scale for all channels."""
    values = maps.influence
    figure = _draw(values, "cividis", float(values.min()), float(values.max()), "mean influence (nats)")
    return as_plot(figure, _in_words("Mean influence", values))


@rc_context(LOOK)
def plot_dropped(maps: LatentMaps) -> Plot:
    """The share of samples that drop each dimension, from 0 to 1."""
    return as_plot(_draw(maps.dropped, "Blues", 0.0, 1.0, "share of samples"), _in_words("Dropped share", maps.dropped))
