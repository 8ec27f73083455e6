"""Estimators of influence that other packages install."""

from pathlib import Path

import numpy as np
import pytest

from ldm_scale.cli import main
from ldm_scale.errors import RunError, UsageError
from ldm_scale.geometry.installed import find_estimator
from tests.auditing import KEYS, PIXELS, make_auditor

THIRD_PARTY = """
from ldm_scale.geometry.influence import hutchinson_influence, probe_squares


def by_probes(batch):
    side = batch.decode(batch.z[:1]).shape[-1]
    probes = batch.draw("probes", (batch.probes, 3, side, side)).transpose(0, 1)
    return hutchinson_influence(probe_squares(batch.decode, batch.z, probes, batch.memory))


def by_channel(batch):
    return batch.z.flatten(2).mean(2)
"""
NONE = ([()] * 5, [None] * 5)


@pytest.fixture(autouse=True)
def _install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution of someone else's, with two estimators, and one that is not there."""
    info = tmp_path / "site" / "someone-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: someone\nVersion: 1.0\n")
    points = ["probes = someones_geometry:by_probes", "channels = someones_geometry:by_channel", "lost = nowhere:gone"]
    (info / "entry_points.txt").write_text("\n".join(["[ldm_scale.estimators]", *points]))
    (tmp_path / "site" / "someones_geometry.py").write_text(THIRD_PARTY)
    monkeypatch.syspath_prepend(tmp_path / "site")


def test_a_third_partys_estimator_is_used_in_rows_and_in_the_calibration_set(tiny_target: Path) -> None:
    """It does what `hutchinson` does, on the same draws."""
    ours, theirs = (
        make_auditor(tiny_target, geometry={"influence": name, "probes": 4, "distortion": "off"})
        for name in ("hutchinson", "probes")
    )
    expected, found = (auditor.audit(PIXELS[:5], KEYS[:5], *NONE) for auditor in (ours, theirs))
    np.testing.assert_array_equal(found.influence, expected.influence)
    np.testing.assert_array_equal(found.spectra["sima"], expected.spectra["sima"])
    assert np.isnan(found.stability).all()
    np.testing.assert_array_equal(*(auditor.calibrate(PIXELS[:5], KEYS[:5]) for auditor in (ours, theirs)))


def test_influences_of_another_shape_are_refused(tiny_target: Path) -> None:
    auditor = make_auditor(tiny_target, geometry={"influence": "channels", "distortion": "off"})
    with pytest.raises(RunError, match=r"^entry point channels of .* gives \(5, 4\) influences, not \(5, 64\)$"):
        auditor.audit(PIXELS[:5], KEYS[:5], *NONE)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("probe", "did you mean 'probes'"),
        ("lost", r"^entry point lost of ldm_scale\.estimators \(someone 1\.0\) cannot be loaded from nowhere:gone"),
    ],
)
def test_an_estimator_that_is_not_there_is_named(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        find_estimator(name)


def test_an_installed_estimator_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "estimators"]) == 0
    assert "--geometry.influence probes" in capsys.readouterr().out
