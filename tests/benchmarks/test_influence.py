"""The influence benchmark on a tiny target, and its accuracy by hand."""

from pathlib import Path

import pytest
import torch

from ldm_scale.benchmarks.influence import (
    HUTCHINSON,
    POOLED,
    accuracy,
    distortion_correlation,
    groups,
    run_influence_benchmark,
)
from ldm_scale.benchmarks.options import InfluenceBenchmarkConfig
from ldm_scale.benchmarks.pictures import demo_pictures
from ldm_scale.errors import UsageError
from ldm_scale.geometry.influence import hutchinson_influence


def test_accuracy_is_the_mean_overlap_of_groups_of_probes() -> None:
    """Of five dimensions two are dropped: the first group finds both, the second one; a rest of probes is left out."""
    exact = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0]])
    right, half = torch.tensor([[1.0, 2, 3, 4, 5]]), torch.tensor([[1.0, 5, 2, 4, 3]])
    squares = torch.stack([right, right, half, half, half])
    assert accuracy(groups(squares, 2, hutchinson_influence), exact).tolist() == [0.75]


def test_the_order_of_distortions_is_compared_over_samples() -> None:
    """Sums of 1, 5 and 3 against 1, 2 and 3, of which two places change, and against 1, 3 and 2."""
    influence = torch.tensor([[0.0, 1.0], [2.0, 3.0], [1.0, 2.0]])
    assert distortion_correlation([influence], torch.tensor([1.0, 2.0, 3.0])) == pytest.approx(0.5)
    assert distortion_correlation([influence, influence], torch.tensor([1.0, 3.0, 2.0])) == pytest.approx(1)


def test_it_times_and_judges_every_estimator(tiny_target: Path) -> None:
    config = InfluenceBenchmarkConfig(target=str(tiny_target), samples=4, calibration=8, batch_size=4, repeats=1)
    lines = {line.what: line for line in run_influence_benchmark(config)}
    names = [f"Hutchinson, {k} probes" for k in HUTCHINSON] + [f"pooled, {k} probes" for k in POOLED]
    assert all(lines[name].value > 0 for name in names)
    accuracies = {name: lines[f"{name}: accuracy"].value for name in names}
    assert all(0.4 < value < 1 for value in accuracies.values())
    assert accuracies["Hutchinson, 64 probes"] > accuracies["Hutchinson, 2 probes"]
    for k in POOLED:
        difference = accuracies[f"pooled, {k} probes"] - accuracies["Hutchinson, 8 probes"]
        assert lines[f"pooled {k} probes - Hutchinson 8"].value == pytest.approx(difference, abs=1e-6)
    assert all(-1 <= lines[f"{name}: bound"].value <= 1 for name in [*names, "exact influence"])
    assert abs(lines["Hutchinson, 8 probes: bfloat16 - float32"].value) < 0.1


def test_pictures_of_other_shards_are_taken_and_no_more_than_there_are(tiny_shards: Path) -> None:
    pictures = demo_pictures(5, 16, str(tiny_shards))
    assert pictures.pixels.shape == (5, 3, 16, 16)
    assert [name.split("-")[0] for name in pictures.ids] == ["members", "heldout", "members", "heldout", "members"]
    with pytest.raises(UsageError, match=r"hold 48 pictures"):
        demo_pictures(49, 16, str(tiny_shards))
