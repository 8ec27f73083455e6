"""The influence benchmark on a tiny target, and its accuracy by hand."""

from pathlib import Path

import pytest
import torch

from ldm_scale.benchmarks.influence import HUTCHINSON, POOLED, accuracy, run_influence_benchmark
from ldm_scale.benchmarks.options import InfluenceBenchmarkConfig
from ldm_scale.geometry.influence import hutchinson_influence


def test_accuracy_is_the_mean_overlap_of_groups_of_probes() -> None:
    """Of five dimensions two are dropped: the first group finds both, the second one; a rest of probes is left out."""
    exact = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0]])
    right, half = torch.tensor([[1.0, 2, 3, 4, 5]]), torch.tensor([[1.0, 5, 2, 4, 3]])
    squares = torch.stack([right, right, half, half, half])
    assert accuracy(squares, exact, 2, hutchinson_influence).tolist() == [0.75]


def test_it_times_and_judges_every_estimator(tiny_target: Path) -> None:
    config = InfluenceBenchmarkConfig(target=str(tiny_target), samples=4, calibration=8, batch_size=4, repeats=1)
    lines = {line.what: line for line in run_influence_benchmark(config)}
    names = [f"Hutchinson, {k} probes" for k in HUTCHINSON] + [f"pooled, {k} probes" for k in POOLED]
    assert all(lines[name].value > 0 for name in names)
    accuracies = {name: lines[f"{name}: accuracy"].value for name in names}
    assert all(0.4 < value < 1 for value in accuracies.values())
    assert accuracies["Hutchinson, 64 probes"] > accuracies["Hutchinson, 2 probes"]
    difference = accuracies["pooled, 4 probes"] - accuracies["Hutchinson, 8 probes"]
    assert lines["pooled 4 probes - Hutchinson 8"].value == pytest.approx(difference, abs=1e-6)
