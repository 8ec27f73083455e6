"""The headline of a run as a table for the terminal."""

from rich.console import Console
from rich.table import Table

from ldm_scale.analysis.results import Estimate, Headline
from ldm_scale.report.headline import read_results
from ldm_scale.rundir import RunDirectory

# Wide enough for the table where standard output is a pipe or a job's log.
LOG_WIDTH = 118


def row_label(headline: Headline) -> str:
    """What a headline row leaves out, in words."""
    drop = f"{headline.calibrated.drop:.0%}"
    return {
        "plain": "plain",
        "lowest": f"lowest {drop} dropped",
        "random": f"random {drop} dropped",
        "highest": f"highest {drop} dropped",
        "chosen": f"chosen: lowest {drop}",
    }[headline.row]


def _cell(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ({estimate.low:.3f}-{estimate.high:.3f})"


def print_results(run: RunDirectory) -> None:
    """Print the calibrated headline table, the oracle AUROC beside it, rejects and warnings."""
    results = read_results(run)
    console = Console()
    if not console.is_terminal:
        console.width = LOG_WIDTH
    table = Table(title=f"{results.members} members, {results.heldout} held-out; {results.confidence:.0%} intervals")
    for name in ("attack", "dimensions", "t", "AUROC", "ASR", "TPR@1%FPR", "TPR@0.1%FPR", "oracle AUROC"):
        table.add_column(name, justify="left" if name in ("attack", "dimensions") else "right")
    for row in results.headline:
        metrics = row.calibrated.metrics
        estimates = (metrics.auroc, metrics.asr, metrics.tpr_at_1pct_fpr, metrics.tpr_at_01pct_fpr)
        oracle = f"{row.oracle.metrics.auroc.value:.3f} (t {row.oracle.timestep})"
        table.add_row(row.attack, row_label(row), str(row.calibrated.timestep), *map(_cell, estimates), oracle)
    console.print(table)
    console.print(
        "t (and the chosen share) picked on one half of the samples, metrics on the other; oracle is optimistic"
    )
    for reason, count in results.rejected.items():
        console.print(f"rejected {count}: {reason}", markup=False)
    for warning in results.warnings:
        console.print(f"warning: {warning}", markup=False)
