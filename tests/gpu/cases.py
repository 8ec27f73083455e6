"""Audits whose rows two devices should agree on, and how nearly. Loads neither Ray nor S3."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ldm_scale.auditor import AuditedBatch, Auditor, Calibration
from ldm_scale.config.audit import AuditConfig
from ldm_scale.config.base import DEMO, build
from ldm_scale.geometry.pooled import Profile
from ldm_scale.targets.base import Target
from ldm_scale.targets.execution import PLAIN, Execution
from ldm_scale.targets.load import load_target

CPU = torch.device("cpu")
TARGET = DEMO / "target"
COUNT, BINS = 4, 8
KEYS = [f"shard/{number:03d}" for number in range(COUNT)]
CAPTIONS, LABELS = [["a cat"], ["a dog"], ["do"], ["cat"]], [0, 4, 2, 1]
ATTACKS = ("sima", "loss", "pia", "pian", "secmi", "pfami", "pfami_published", "epsilon", "sima_mc")


@dataclass(frozen=True)
class Tolerance:
    """How far rows may be from the CPU's in float32.

    influence: in nats. spectra: relative, of a bin's sum of |S_i|^p. distortion: relative.
    """

    influence: float
    spectra: float
    distortion: float


# Sums of float32 in another order: influences 1e-4 nats, fourth powers 1e-3.
FLOAT32 = Tolerance(1e-4, 1e-3, 1e-4)


def smooth_pixels(count: int, side: int, seed: int = 0) -> np.ndarray:
    """Smooth random pictures, (count, 3, side, side) uint8."""
    small = torch.from_numpy(np.random.default_rng(seed).random((count, 3, 4, 4), np.float32))
    large = torch.nn.functional.interpolate(small, size=(side, side), mode="bicubic").clamp(0, 1)
    return (large * 255).byte().numpy()


def make_config(**changes: Any) -> AuditConfig:
    """An audit of few timesteps, whose attacks ask the denoiser with every kind of noise."""
    attacks: dict[str, dict[str, Any]] = {name: {"timesteps": [0, 100]} for name in ATTACKS}
    attacks["secmi"]["step"] = 50
    values: dict[str, Any] = {
        "out": "unused",
        "shards": "unused",
        "target": "unused",
        "attacks": attacks,
        "geometry": {"probes": 4, "distortion": "off"},
        "masks": {"bins": BINS},
        "analysis": {"drop": 0.5},
    }
    return build(AuditConfig, values | changes)


@cache
def calibration_of(target: Path) -> Calibration:
    """The profile and the ranking that a run's calibration would hand to its auditors: the CPU's, from 8 pictures."""
    loaded = load_target(target, "cpu")
    auditor = Auditor(loaded, make_config(geometry={"influence": "pooled", "probes": 2, "distortion": "off"}))
    pixels = smooth_pixels(8, loaded.image_size, seed=1)
    estimates = torch.from_numpy(auditor.calibrate(pixels, [f"other/{n}" for n in range(8)]))
    profile = Profile.of(*estimates.unflatten(2, loaded.latent_shape), probes=2)
    return Calibration(profile, profile.mean.flatten().double().numpy())


def audit(auditor: Auditor, target: Target, batch: int = COUNT) -> AuditedBatch:
    """The rows of COUNT pictures, brought to the device as a worker brings them, so many at a time."""
    pixels, parts = smooth_pixels(COUNT, target.image_size), []
    for start in range(0, COUNT, batch):
        some = slice(start, start + batch)
        arriving = auditor.load(pixels[some])
        parts.append(auditor.audit(arriving.wait(), KEYS[some], CAPTIONS[some], LABELS[some]))

    def join(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    return AuditedBatch(
        *(join(name) for name in ("influence", "distortion", "stability", "leakage", "latent")),
        {name: np.concatenate([part.spectra[name] for part in parts]) for name in parts[0].spectra},
        tuple(fault for part in parts for fault in part.faults),
        parts[-1].cost,
    )


def rows_of(
    folder: Path, device: torch.device, config: AuditConfig, execution: Execution = PLAIN, batch: int = COUNT
) -> AuditedBatch:
    """The rows of a target in a folder, with the calibration of the CPU."""
    target = load_target(folder, str(device), execution=execution)
    return audit(Auditor(target, config, calibration_of(folder)), target, batch)


def reference(folder: Path, config: AuditConfig) -> AuditedBatch:
    """The CPU's rows in float32, in batches of another size than COUNT."""
    return rows_of(folder, CPU, config, batch=2)


def clear_of_edges(influence: np.ndarray, bins: int, gap: float) -> np.ndarray:
    """Samples no two of whose influences beside a bin's edge are so near that rounding may swap them; (n,) bool."""
    ordered = np.sort(influence, axis=1)
    edges = [int(np.ceil(b * influence.shape[1] / bins)) for b in range(1, bins)]
    return np.stack([ordered[:, edge] - ordered[:, edge - 1] for edge in edges]).min(0) > gap


def assert_same_geometry(found: AuditedBatch, expected: AuditedBatch, tolerance: Tolerance) -> None:
    """Influence, stability and distortion, each within its tolerance, nan where nan is expected."""
    np.testing.assert_allclose(found.influence, expected.influence, rtol=0, atol=tolerance.influence)
    np.testing.assert_allclose(found.distortion, expected.distortion, rtol=tolerance.distortion)
    # Ranks: near ties may swap, of 64 dimensions or more, two or three of them.
    np.testing.assert_allclose(found.stability, expected.stability, atol=0.05)


def assert_same_spectra(found: AuditedBatch, expected: AuditedBatch, tolerance: Tolerance) -> None:
    """Each spectrum's sum over its bins; each bin under the masks that no rounding moves, and under the own mask of
    every sample whose bins are clear.
    """
    assert found.spectra.keys() == expected.spectra.keys()
    assert not any(found.faults)
    clear = clear_of_edges(expected.influence, BINS, 2 * tolerance.influence)
    assert clear.mean() >= 0.5
    for name, values in expected.spectra.items():
        np.testing.assert_allclose(found.spectra[name].sum(2), values.sum(2), rtol=tolerance.spectra)
        own = not name.endswith(("_random", "_global"))
        rows = clear if own else np.ones_like(clear)
        np.testing.assert_allclose(found.spectra[name][rows], values[rows], rtol=tolerance.spectra)
    # A bin's largest |S_i| to its own relative error, the smallest to that of the largest.
    scale = np.abs(expected.leakage).max()
    np.testing.assert_allclose(found.leakage, expected.leakage, rtol=0, atol=tolerance.spectra * scale)


def assert_same_rows(found: AuditedBatch, expected: AuditedBatch, tolerance: Tolerance = FLOAT32) -> None:
    assert_same_geometry(found, expected, tolerance)
    assert_same_spectra(found, expected, tolerance)


def disturbed(target: Target, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Change what one of a target's methods gives, as a faulty kernel would."""
    method = getattr(target, name)
    setattr(target, name, lambda *arguments: change(method(*arguments)))
