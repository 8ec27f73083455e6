"""The headline of a run as a table for the terminal."""

import os
import sys

from rich.table import Table

from ldm_scale.analysis.results import Headline, RelativeRow, Results
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.report.blind import numbers, warned
from ldm_scale.report.facts import warnings_of
from ldm_scale.report.headline import read_results
from ldm_scale.report.labels import at_step, change_label, interval_label, row_label, step_label, tpr_label
from ldm_scale.report.verdict import evidence
from ldm_scale.terminal import say, say_table

# Wide enough for the table if standard output is a pipe or a job's log.
LOG_WIDTH = 132


def _difference(row: Headline | RelativeRow) -> str:
    difference = row.heldout_choice.difference
    return change_label(difference.auroc) if difference else ""


def _headline_table(results: Results) -> Table:
    table = Table(title=f"{results.members} members, {results.heldout} held-out; {results.confidence:.0%} intervals")
    for name in ("attack", "dimensions", "t", "AUROC", "minus plain", "TPR@1%FPR", "oracle AUROC"):
        table.add_column(name, justify="left" if name in ("attack", "dimensions") else "right")
    previous = results.headline[0].attack
    for row in results.headline:
        if row.attack != previous:
            table.add_section()
            previous = row.attack
        metrics, oracle = row.heldout_choice.metrics, row.oracle
        table.add_row(
            row.attack,
            row_label(row),
            step_label(row.heldout_choice.timestep),
            interval_label(metrics.auroc),
            _difference(row),
            tpr_label(metrics.tpr_at_1pct_fpr, results.heldout),
            f"{oracle.metrics.auroc.value:.3f} ({at_step(oracle.timestep)})" if oracle else "",
        )
    return table


def relative_lines(results: Results) -> list[str]:
    """What each attack says relative to the reference model, if there is one."""
    return [
        f"{row.attack} relative to the reference, {at_step(row.heldout_choice.timestep)}: AUROC "
        f"{interval_label(row.heldout_choice.metrics.auroc)}, minus plain {_difference(row)}; the reference alone "
        f"{interval_label(row.reference)}"
        for row in (results.relative.rows if results.relative else ())
    ]


def print_results(run: RunDirectory) -> None:
    """Print what is shown, the headline table, what all attacks say together, rejects and warnings."""
    results = read_results(run.reduction())
    for said in evidence(results):
        say(said)
    say_table(_headline_table(results), os.get_terminal_size().columns if sys.stdout.isatty() else LOG_WIDTH)
    say(
        "held-out choices: t (and what is chosen) picked on one half of the samples, metrics on the other, means over "
        f"{results.repeats} halvings; oracle is optimistic"
    )
    say(f"all attacks combined: AUROC {interval_label(results.combined.metrics.auroc)}")
    for line in relative_lines(results):
        say(line)
    say(f"blind control, without the denoiser: {numbers(results.blind)}; by names alone: {numbers(results.names)}")
    for reason, count in results.rejected.items():
        say(f"rejected {count}: {reason}")
    for warning in (*warned(results), *warnings_of(results)):
        say(f"warning: {warning}")
