"""The report's curves: each function turns the results into one figure, with a panel for each attack."""

from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from ldm_scale.analysis.results import Estimate, Point, Results
from ldm_scale.report.figures import LOOK, STYLES, Plot, as_plot, panels
from ldm_scale.report.headline import attacks_of, rows_of
from ldm_scale.report.labels import at_step

# Least height of an axis of AUROC.
NARROWEST = 0.12


def auroc_axis(axes: Axes, aurocs: Sequence[float]) -> None:
    """Chance, and limits that hold it and all values; never so narrow that noise looks like a finding."""
    axes.axhline(0.5, color="#767676", linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
    low, high = min([0.5, *aurocs]), max([0.5, *aurocs])
    spare = max(0.08 * (high - low), (NARROWEST - (high - low)) / 2)
    axes.set_ylim(low - spare, high + spare)


def _curve(axes: Axes, x: Sequence[float], y: Sequence[float], name: str, markers: bool = True) -> None:
    style = STYLES[name]
    step = "default" if markers else "steps-post"
    width = 2.4 if name == "chosen" else 1.5
    # The chosen share often equals another row: dotted, thick and on top, it lets that one show through.
    axes.plot(
        x,
        y,
        color=style.colour,
        linestyle=style.line,
        marker=style.marker if markers else "",
        markersize=3.4,
        linewidth=width,
        drawstyle=step,
        label=style.label,
        zorder=4 if name == "chosen" else 3,
    )


def _floor(rates: Sequence[float]) -> float:
    """Half the smallest rate that is not zero: where a logarithmic axis shows zero."""
    return min((rate for rate in rates if rate > 0), default=0.01) / 2


@rc_context(LOOK)
def plot_roc(results: Results) -> Plot:
    """ROC curves of every headline row on logarithmic axes."""
    x_floor, y_floor = _floor([p.fpr for p in results.roc]), _floor([p.tpr for p in results.roc])

    def draw(axes: Axes, attack: str) -> None:
        for name in rows_of(results, attack):
            points = [p for p in results.roc if (p.attack, p.row) == (attack, name)]
            fpr, tpr = [max(p.fpr, x_floor) for p in points], [max(p.tpr, y_floor) for p in points]
            _curve(axes, fpr, tpr, name, markers=False)
        axes.plot([x_floor, 1], [x_floor, 1], color="#767676", linewidth=0.9, linestyle=(0, (1, 2)), label="chance")
        for level in (0.01, 0.001):
            axes.axvline(level, color="#b0b0b0", linewidth=0.8, zorder=1)
        axes.set(xscale="log", yscale="log", xlim=(x_floor, 1), ylim=(y_floor, 1.15))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())

    def in_words(attack: str) -> str:
        rows = rows_of(results, attack).items()
        rates = [f"{STYLES[name].label} {row.heldout_choice.metrics.tpr_at_1pct_fpr.value:.3f}" for name, row in rows]
        return f"{attack}, true positive rate at 1% false positives: {', '.join(rates)}."

    titles = {attack: attack for attack in attacks_of(results)}
    figure = panels(titles, draw, "FPR: held-out misjudged", "TPR: members found")
    return as_plot(figure, "ROC curves on logarithmic axes. " + " ".join(map(in_words, titles)))


def _peak(points: Sequence[Point]) -> str:
    best = max(points, key=lambda p: p.auroc)
    return f"{best.auroc:.3f} at {at_step(best.timestep)}, {best.drop:.0%} dropped"


@rc_context(LOOK)
def plot_by_drop(results: Results) -> Plot:
    """AUROC against the share of dimensions dropped: lowest, random and highest influence."""

    def points(attack: str, mask: str) -> list[Point]:
        mine = [p for p in results.by_drop if p.attack == attack]
        return [p for p in mine if p.mask == "none"][:1] + [p for p in mine if p.mask == mask]

    def draw(axes: Axes, attack: str) -> None:
        auroc_axis(axes, [p.auroc for p in results.by_drop])
        if "lowest" in (rows := rows_of(results, attack)):
            axes.axvline(rows["lowest"].heldout_choice.drop, color="#b0b0b0", linewidth=0.8, zorder=1)
        held = {p.mask for p in results.by_drop if p.attack == attack}
        for mask in (name for name in ("random", "highest", "global", "lowest") if name in held):
            series = points(attack, mask)
            _curve(axes, [p.drop for p in series], [p.auroc for p in series], mask)

    titles = {p.attack: f"{p.attack}, {at_step(p.timestep)}" for p in results.by_drop}
    figure = panels(titles, draw, "share of dimensions dropped", "AUROC, all samples")
    words = [f"{attack}, lowest dropped: best {_peak(points(attack, 'lowest'))}." for attack in titles]
    return as_plot(figure, "AUROC against the share of dimensions dropped. " + " ".join(words))


@rc_context(LOOK)
def plot_by_timestep(results: Results) -> Plot:
    """AUROC at each timestep, plain and with the lowest dropped; of the attacks that are not averaged over them."""

    def points(attack: str, mask: str) -> list[Point]:
        return [p for p in results.by_timestep if (p.attack, p.mask) == (attack, mask)]

    def draw(axes: Axes, attack: str) -> None:
        auroc_axis(axes, [p.auroc for p in results.by_timestep])
        for mask, name in (("none", "plain"), ("lowest", "lowest")):
            series = points(attack, mask)
            _curve(axes, [p.timestep for p in series if p.timestep is not None], [p.auroc for p in series], name)

    titles = {p.attack: p.attack for p in results.by_timestep if p.timestep is not None}
    figure = panels(titles, draw, "timestep t", "AUROC, all samples")
    words = [f"{attack}, plain: best {_peak(points(attack, 'none'))}." for attack in titles]
    return as_plot(figure, "AUROC at each timestep. " + " ".join(words))


@rc_context(LOOK)
def plot_by_distortion(results: Results) -> Plot:
    """AUROC in each quartile of distortion, with intervals, plain and with the lowest dropped."""
    quartiles = [(g, g.auroc) for g in results.by_distortion if g.auroc and g.groups == 4]

    def draw(axes: Axes, attack: str) -> None:
        auroc_axis(axes, [end for g in results.by_distortion if g.auroc for end in (g.auroc.low, g.auroc.high)])
        for name, shift in (("plain", -0.08), ("lowest", 0.08)):
            found = {g.group + shift: auroc for g, auroc in quartiles if (g.attack, g.row) == (attack, name)}
            bars(axes, found, name)
        axes.set_xticks([1, 2, 3, 4], ["1 (least)", "2", "3", "4 (most)"])
        axes.set_xlim(0.6, 4.4)

    titles = {attack: attack for attack in attacks_of(results)}
    figure = panels(titles, draw, "quartile of distortion", f"AUROC, {results.confidence:.0%} interval")
    words = [f"{g.attack} {STYLES[g.row].label}, quartile {g.group}: {auroc.value:.3f}." for g, auroc in quartiles]
    return as_plot(figure, "AUROC in each quartile of distortion. " + " ".join(words))


def bars(axes: Axes, estimates: dict[float, Estimate], name: str) -> None:
    """A curve with an interval at each of its points."""
    _curve(axes, list(estimates), [estimate.value for estimate in estimates.values()], name)
    lows, highs = [e.low for e in estimates.values()], [e.high for e in estimates.values()]
    axes.vlines(list(estimates), lows, highs, color=STYLES[name].colour, linewidth=1.3)


@rc_context(LOOK)
def plot_by_bin(results: Results) -> Plot:
    """AUROC of each influence bin alone, with intervals."""

    def points(attack: str) -> dict[float, Estimate]:
        return {p.bin + 1.0: p.auroc for p in results.by_bin if p.attack == attack}

    def draw(axes: Axes, attack: str) -> None:
        auroc_axis(axes, [end for p in results.by_bin for end in (p.auroc.low, p.auroc.high)])
        bars(axes, points(attack), "plain")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))

    titles = {p.attack: f"{p.attack}, {at_step(p.timestep)}" for p in results.by_bin}
    figure = panels(titles, draw, "influence bin alone, 1 = lowest", f"AUROC, {results.confidence:.0%} interval")
    ends = {attack: list(points(attack).values()) for attack in titles}
    words = [
        f"{attack}: lowest bin {found[0].value:.3f}, highest {found[-1].value:.3f}." for attack, found in ends.items()
    ]
    return as_plot(figure, "AUROC of each influence bin alone. " + " ".join(words))
