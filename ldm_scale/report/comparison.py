"""A comparison of runs: as tables for the terminal, and as one page."""

from matplotlib import rc_context
from matplotlib.axes import Axes
from rich.table import Table

from ldm_scale.analysis.comparison import ComparedRow, Comparison
from ldm_scale.analysis.results import RowName
from ldm_scale.report.environment import make_environment
from ldm_scale.report.figures import LOOK, STYLES, Plot, as_plot, panels
from ldm_scale.report.labels import change_label, cut_label, interval_label, p_label, share_label, step_label, tpr_label
from ldm_scale.report.plots import auroc_axis, bars
from ldm_scale.report.table import LOG_WIDTH
from ldm_scale.terminal import say, say_table


def _table(found: Comparison) -> Table:
    title = f"{found.members} members, {found.heldout} held-out in all runs; {found.confidence:.0%} intervals"
    table = Table("attack", "dimensions", "run", title=title)
    for column in ("t", "AUROC", "minus run 0, paired", "TPR@1%FPR"):
        table.add_column(column, justify="right")
    for number, row in enumerate(found.rows):
        if number and row.attack != found.rows[number - 1].attack:
            table.add_section()
        table.add_row(
            row.attack if row.run == 0 else "",
            cut_label(row.row, found.drop) if row.run == 0 else "",
            str(row.run),
            step_label(row.timestep),
            interval_label(row.metrics.auroc),
            change_label(row.difference.auroc) if row.difference else "",
            tpr_label(row.metrics.tpr_at_1pct_fpr, found.heldout),
        )
    return table


def sentences(found: Comparison) -> list[str]:
    """What is said beside the table: which run is which, whether they agree, and what to be careful about."""
    lines = [f"run {number}: {run.run} ({p_label(run.p_value)})" for number, run in enumerate(found.runs)]
    lines += [
        f"{one.attack}: members' scores in run {one.run} and run 0 have a rank correlation of {one.correlation:.3f}"
        for one in found.agreement
    ]
    lines += [
        f"influence in run {one.run} and run 0: rank correlation {one.correlation:.3f} over the dimensions, "
        f"{one.overlap:.0%} of the lowest {share_label(found.drop)} in common"
        for one in found.rankings
    ]
    return lines + [f"warning: {warning}" for warning in found.warnings]


def print_comparison(found: Comparison) -> None:
    """Print the table of all runs, and what is said beside it."""
    say_table(_table(found), LOG_WIDTH)
    for line in sentences(found):
        say(line)


@rc_context(LOOK)
def plot_comparison(found: Comparison) -> Plot:
    """AUROC of each row, run by run, with intervals: over checkpoints, a curve over training."""

    def rows(attack: str, name: RowName) -> list[ComparedRow]:
        return [row for row in found.rows if (row.attack, row.row) == (attack, name)]

    names = list(dict.fromkeys(row.row for row in found.rows))

    def draw(axes: Axes, attack: str) -> None:
        every = [row.metrics.auroc for row in found.rows]
        auroc_axis(axes, [end for auroc in every for end in (auroc.low, auroc.high)])
        for place, name in enumerate(names):
            shift = 0.06 * (place - (len(names) - 1) / 2)
            bars(axes, {row.run + shift: row.metrics.auroc for row in rows(attack, name)}, name)
        axes.set_xticks(range(len(found.runs)))

    titles = {row.attack: row.attack for row in found.rows}
    figure = panels(titles, draw, "run", f"AUROC, {found.confidence:.0%} interval")
    words = [
        f"{attack} plain: {', '.join(f'{row.metrics.auroc.value:.3f}' for row in rows(attack, 'plain'))}."
        for attack in titles
    ]
    return as_plot(figure, "AUROC in each run. " + " ".join(words))


def comparison_page(found: Comparison) -> bytes:
    """The comparison as one self-contained page; the same comparison gives the same bytes."""
    template = make_environment().get_template("comparison.html")
    words = {"sentences": sentences(found), "cut_label": cut_label, "step_label": step_label}
    return template.render(found=found, plot=plot_comparison(found), styles=STYLES, **words).encode()
