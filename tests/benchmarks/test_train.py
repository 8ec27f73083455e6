"""The benchmark of training on the demo's members, and what it refuses."""

import pytest

from ldm_scale.benchmarks.options import TrainBenchmarkConfig
from ldm_scale.benchmarks.train import run_train_benchmark
from ldm_scale.errors import UsageError


def test_it_times_both_stages_beside_the_bare_loop() -> None:
    config = TrainBenchmarkConfig(presets=("demo",), steps=1, repeats=1)
    lines = {line.what: line for line in run_train_benchmark(config)}
    assert list(lines) == ["demo: reading", "demo: autoencoder", "demo: denoiser"]
    assert lines["demo: reading"].value > 0
    for stage in ("autoencoder", "denoiser"):
        assert lines[f"demo: {stage}"].bound > 0
        # As the machine is shared: a step that reads and encodes takes many times as long.
        assert 0.2 < lines[f"demo: {stage}"].ratio < 5


@pytest.mark.parametrize(("preset", "message"), [("dem", "^preset: "), ("imagenet", "give autoencoder.pretrained")])
def test_presets_that_start_from_nothing_are_needed(preset: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        next(run_train_benchmark(TrainBenchmarkConfig(presets=(preset,))))
