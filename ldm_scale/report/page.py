"""report.html: the run directory's results as one self-contained page, made from files alone."""

from typing import Any

import yaml

from ldm_scale.analysis.results import DistortionGroup, PaperRow, Results
from ldm_scale.files.ownership import Ownership
from ldm_scale.files.reductions import REPORT, Reduction, publish, stamp_of
from ldm_scale.files.rundir import RunDirectory, RunRecord
from ldm_scale.files.storage import Location
from ldm_scale.report.blind import warned
from ldm_scale.report.claims import lede
from ldm_scale.report.environment import make_environment
from ldm_scale.report.facts import describe_estimate, facts, warnings_of
from ldm_scale.report.figures import STYLES, Plot
from ldm_scale.report.headline import attacks_of, read_results, rows_of
from ldm_scale.report.labels import above_label, at_step, choice_label, p_label, row_label, step_label
from ldm_scale.report.maps import LatentMaps, plot_dropped, plot_influence
from ldm_scale.report.pictures import read_pictures
from ldm_scale.report.plots import plot_by_bin, plot_by_distortion, plot_by_drop, plot_by_timestep, plot_roc
from ldm_scale.report.verdict import beats_chance, evidence, verdict

REJECTS_SHOWN = 10
ROLES = {
    "plain": "all dimensions kept",
    "lowest": "the paper's filter",
    "global": "one ranking for all samples",
    "random": "control",
    "highest": "reversed control",
    "chosen": "side and share also chosen",
    "geometry": "minus what geometry predicts",
}


def _by_distortion(results: Results) -> dict[str, dict[str, list[DistortionGroup]]]:
    """The quartiles of distortion, then the halves, least first, by attack and row."""
    lines: dict[str, dict[str, list[DistortionGroup]]] = {}
    for group in sorted(results.by_distortion, key=lambda group: (-group.groups, group.group)):
        lines.setdefault(group.attack, {}).setdefault(group.row, []).append(group)
    return lines


def _paper(results: Results) -> dict[str, list[PaperRow]]:
    """The lines of the paper's table, with quartiles of distortion before halves, by attack."""
    lines: dict[str, list[PaperRow]] = {}
    for row in results.paper:
        groups = sorted(row.by_distortion, key=lambda group: (-group.groups, group.group))
        lines.setdefault(row.attack, []).append(row.model_copy(update={"by_distortion": tuple(groups)}))
    return lines


def plots_of(results: Results, maps: LatentMaps) -> dict[str, Plot]:
    """The figures that these results have, by name."""
    figures = {
        "roc": plot_roc(results),
        "by_drop": plot_by_drop(results),
        "by_bin": plot_by_bin(results),
        "influence": plot_influence(maps),
        "dropped": plot_dropped(maps),
    }
    if any(point.timestep is not None for point in results.by_timestep):
        figures["by_timestep"] = plot_by_timestep(results)
    if results.by_distortion:
        figures["by_distortion"] = plot_by_distortion(results)
    return figures


def _context(run: RunDirectory, record: RunRecord, reduction: Reduction) -> dict[str, Any]:
    """Everything the template names."""
    results = read_results(reduction)
    maps = LatentMaps.of(reduction.read_ranking(), record.latent_shape)
    by_distortion = _by_distortion(results)
    return {
        "agreement": maps.agreement(),
        "above_label": above_label,
        "accuses": bool(results.at_risk) and beats_chance(results, results.at_risk[0].attack),
        "at_step": at_step,
        "attacks": {attack: rows_of(results, attack) for attack in attacks_of(results)},
        "blind": [("without the denoiser", results.blind), ("by names alone", results.names)],
        "by_distortion": by_distortion,
        "confounds": warned(results),
        "channels": [
            {"mean": c.mean(), "low": c.min(), "high": c.max(), "dropped": d.mean()}
            for c, d in zip(maps.influence, maps.dropped, strict=True)
        ],
        "choice_label": choice_label,
        "config": yaml.safe_dump(
            record.config.model_dump(mode="json"),
            sort_keys=False,
            allow_unicode=True,
            default_flow_style=None,
            width=100,
        ),
        "departures": record.departures,
        "estimate": results.distortion_estimate and describe_estimate(results.distortion_estimate),
        "evidence": evidence(results),
        "facts": facts(results, record, run.latest()),
        "lede": lede(results),
        "paper": _paper(results),
        "pictures": read_pictures([one.sample_id for one in (*results.at_risk, *results.highest_heldout)], record),
        "plots": plots_of(results, maps),
        "groups": next((line for rows in by_distortion.values() for line in rows.values()), []),
        "p_value": p_label(results.combined.inference.p_value),
        "reject_counts": [(*name.partition(": ")[::2], count) for name, count in results.rejected.items()],
        "rejects": run.rejects().to_pylist()[:REJECTS_SHOWN],
        "results": results,
        "roles": ROLES,
        "row_label": row_label,
        "stamp": stamp_of(reduction.read_results()),
        "step_label": step_label,
        "styles": STYLES,
        "verdict": verdict(results),
        "warnings": warnings_of(results),
    }


def write_report(run: RunDirectory, owner: Ownership) -> Location:
    """Add report.html to the reduction that readers see, and put copies of its files beside run.json.

    The same directory gives the same bytes. If shards cannot be reached, only the pictures are missing.

    Returns:
        The page's location beside run.json.

    Raises:
        UsageError: if the directory holds no results.
        RunError: if another job has taken over the run.
    """
    record, reduction = run.read_record(), run.reduction()
    html = make_environment().get_template("report.html").render(_context(run, record, reduction))
    reduction.write_report(owner, html.encode())
    publish(owner)
    return run.root / REPORT
