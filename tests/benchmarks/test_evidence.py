"""Size and power of p: what is counted, on rows with and without a signal; the numbers are for the benchmark to say."""

from pathlib import Path

import numpy as np
import pytest

from ldm_scale.benchmarks.evidence import LabelledRows, audit_untrained, read_rows, run_evidence_benchmark, weigh
from ldm_scale.benchmarks.options import EvidenceBenchmarkConfig
from ldm_scale.errors import UsageError
from ldm_scale.files.storage import Location
from tests.analysis.simulation import simulate
from tests.made_up import RECORD, make_run


def simulated(signal: float) -> LabelledRows:
    data = simulate(0, 160, signal=signal)
    return LabelledRows.of(data.spectra, data.member)


def test_a_planted_signal_is_found_and_no_signal_is_not() -> None:
    found, nothing = (weigh(simulated(signal), 2, 0) for signal in (0.6, 0.0))
    assert found.p_value < 0.01 < 0.05 < nothing.p_value
    assert found.combined > found.single > 0.6


def test_rows_are_drawn_from_both_sides_alike(tmp_path: Path) -> None:
    run = make_run(Location.of(tmp_path / "run"))
    rows = read_rows(str(run.root))
    assert rows.features.shape == (32, 2 * (1 + RECORD.config.masks.bins))
    assert rows.singles == 2
    drawn = rows.draw(5, np.random.default_rng(0))
    assert (len(drawn.member), int(drawn.member.sum())) == (10, 5)
    with pytest.raises(UsageError, match="16 members and 16 held-out, not 17 each"):
        rows.draw(17, np.random.default_rng(0))


def test_power_has_a_line_for_each_number_of_rows(tmp_path: Path) -> None:
    run = make_run(Location.of(tmp_path / "run"))
    config = EvidenceBenchmarkConfig(targets=0, run=str(run.root), sides=(6, 8), draws=2, halvings=1)
    lines = list(run_evidence_benchmark(config))
    assert [line.what for line in lines] == ["6 + 6, p <= 0.05", "8 + 8, p <= 0.05"]


@pytest.mark.slow
def test_untrained_targets_are_audited_with_weights_and_pictures_of_their_own() -> None:
    one, other = audit_untrained(EvidenceBenchmarkConfig(targets=2, samples=6))
    assert one.features.shape == other.features.shape == (12, 4 * 6)
    assert np.isfinite(one.features).all()
    assert not np.allclose(one.features, other.features)
