"""The headline of a run as a table for the terminal."""

from rich.console import Console
from rich.table import Table

from ldm_scale.analysis.results import Choice, Estimate, Headline, Results
from ldm_scale.errors import printable
from ldm_scale.report.headline import read_results
from ldm_scale.rundir import RunDirectory

# Wide enough for the table where standard output is a pipe or a job's log.
LOG_WIDTH = 132
SMALLEST_P = 1e-12


def share_label(share: float) -> str:
    """A share in percent, with no more digits than it has."""
    return f"{100 * share:.3g}%"


def row_label(headline: Headline) -> str:
    """What a headline row leaves out, in words."""
    drop = share_label(headline.calibrated.drop)
    return {
        "plain": "plain",
        "lowest": f"lowest {drop} dropped",
        "random": f"random {drop} dropped",
        "global": f"global lowest {drop}",
        "highest": f"highest {drop} dropped",
        "chosen": f"chosen: {_dropped(headline.calibrated)}",
        "geometry": "geometry-calibrated",
    }[headline.row]


def _dropped(choice: Choice) -> str:
    return "nothing" if choice.mask == "none" else f"{choice.mask} {share_label(choice.drop)}"


def step_label(timestep: int | None) -> str:
    """A timestep, or that it is the mean over all."""
    return "all" if timestep is None else str(timestep)


def at_step(timestep: int | None) -> str:
    """The same with its name, e.g. "t 60"."""
    return "all t" if timestep is None else f"t {timestep}"


def choice_label(choice: Choice) -> str:
    """A choice in short: the timestep, and what is dropped if anything is."""
    return at_step(choice.timestep) + ("" if choice.mask == "none" else f", {_dropped(choice)}")


def p_label(p: float) -> str:
    """A p-value; none so small that the test's tails cannot carry it."""
    return f"p < {SMALLEST_P:g}" if p < SMALLEST_P else f"p = {p:.2g}"


def _cell(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ({estimate.low:.3f}-{estimate.high:.3f})"


def _difference(row: Headline) -> str:
    difference = row.calibrated.difference
    if difference is None:
        return ""
    auroc = difference.auroc
    return f"{auroc.value:+.3f} ({auroc.low:+.3f} to {auroc.high:+.3f})"


def _headline_table(results: Results) -> Table:
    table = Table(title=f"{results.members} members, {results.heldout} held-out; {results.confidence:.0%} intervals")
    for name in ("attack", "dimensions", "t", "AUROC", "minus plain", "TPR@1%FPR", "oracle AUROC"):
        table.add_column(name, justify="left" if name in ("attack", "dimensions") else "right")
    previous = results.headline[0].attack
    for row in results.headline:
        if row.attack != previous:
            table.add_section()
            previous = row.attack
        metrics, oracle = row.calibrated.metrics, row.oracle
        table.add_row(
            row.attack,
            row_label(row),
            step_label(row.calibrated.timestep),
            _cell(metrics.auroc),
            _difference(row),
            _cell(metrics.tpr_at_1pct_fpr),
            f"{oracle.metrics.auroc.value:.3f} ({at_step(oracle.timestep)})" if oracle else "",
        )
    return table


def print_results(run: RunDirectory) -> None:
    """Print the calibrated headline table, what all attacks say together, rejects and warnings."""
    results = read_results(run)
    console = Console()
    if not console.is_terminal:
        console.width = LOG_WIDTH
    console.print(_headline_table(results))
    console.print(
        f"t (and what is chosen) picked on one half of the samples, metrics on the other, means over {results.repeats} "
        "halvings; oracle is optimistic"
    )
    combined, inference = results.combined, results.combined.inference
    console.print(
        f"all attacks combined: AUROC {_cell(combined.metrics.auroc)}; if the target had never seen "
        f"the members, {p_label(inference.p_value)}"
    )
    for reason, count in results.rejected.items():
        console.print(f"rejected {count}: {printable(reason)}", markup=False)
    for warning in results.warnings:
        console.print(f"warning: {warning}", markup=False)
