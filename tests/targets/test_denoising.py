"""Predictions for many timesteps of a batch, against one sample and timestep at a time."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ldm_scale.device.budget import Budget
from ldm_scale.targets.denoising import Conditions, predict_noises
from ldm_scale.targets.load import load_target
from tests.targets import tiny
from tests.targets.families import CAPTIONS, FAMILIES, LABELS

TIMESTEPS = (0, 640, 30)


@pytest.mark.parametrize("make", FAMILIES, ids=lambda make: make.__name__)
def test_each_row_is_its_own_sample_timestep_and_condition(make: Callable[[Path], Path], tmp_path: Path) -> None:
    """Of every family, in chunks that begin and end within a timestep."""
    target = load_target(make(tmp_path), "cpu")
    x = torch.randn(3, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        condition = Conditions.of(target.condition(CAPTIONS, LABELS), [[0], [1], [2]], (), target.alphas_cumprod)
        found = {rows: predict_noises(target, condition, Budget(rows, "row"), x, TIMESTEPS) for rows in (2, 100)}
        for t, step in enumerate(TIMESTEPS):
            for n in range(3):
                own = target.condition([CAPTIONS[n]], [LABELS[n]])
                alone = target.predict_noise(x[t, n : n + 1], torch.tensor([step]), own)[0]
                for noises in found.values():
                    torch.testing.assert_close(noises[t, n], alone, rtol=1e-4, atol=1e-5)
    assert found[2].shape == x.shape


def test_v_prediction_is_converted_by_each_rows_own_timestep(tmp_path: Path) -> None:
    target = load_target(tiny.stable_diffusion(tmp_path, "v_prediction"), "cpu")
    x = torch.randn(2, 2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        condition = target.condition(["cat", "dog"], [None, None])
        one_each = Conditions.of(condition, [[0], [1]], (), target.alphas_cumprod)
        found = predict_noises(target, one_each, Budget(100, "row"), x, (10, 900))
        for t, step in enumerate((10, 900)):
            expected = target.predict_noise(x[t], tiny.at(step, x[t]), condition)
            torch.testing.assert_close(found[t], expected, rtol=1e-4, atol=1e-5)
