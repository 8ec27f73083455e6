"""The audit's benchmark on a tiny target: its quantities belong together; how fast it is, is not for a test to say."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldm_scale.auditor import AuditedBatch
from ldm_scale.benchmarks import audit, published
from ldm_scale.benchmarks.lines import Line
from ldm_scale.benchmarks.options import AuditBenchmarkConfig
from ldm_scale.benchmarks.pictures import demo_pictures
from ldm_scale.config.base import build
from ldm_scale.errors import UsageError
from tests.inline import traced_once


@dataclass(frozen=True)
class Measured:
    """The benchmark's lines by what they are, and what its comparison was given: our audit and the published one."""

    lines: dict[str, Line]
    ours: list[AuditedBatch]
    theirs: published.Published


@pytest.fixture(scope="module")
def measured(tiny_target: Path) -> Measured:
    given: list[Any] = []

    def compare(*both: Any) -> Iterator[Line]:
        given.extend(both)
        yield from audit_compare(*both)

    audit_compare = audit.compare
    config = AuditBenchmarkConfig(
        target=str(tiny_target),
        samples=4,
        published=4,
        batch_size=2,
        precision=4,
        repeats=1,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "SIZES", (1, 2))
        patch.setattr(audit, "compare", compare)
        patch.setattr("ldm_scale.auditor.TracedDecoder", traced_once)
        lines = {line.what: line for line in audit.run_audit_benchmark(config)}
    return Measured(lines, *given)


def test_the_lines_belong_together(measured: Measured) -> None:
    lines = measured.lines
    ours, bare = lines["ours"], {name: line.value for name, line in lines.items() if name.endswith("alone")}
    # 20 evaluations an attack, two of which share SimA's at t = 0.
    evaluations, products = re.match(r"(\d+) evaluations, ([\d.]+) products", ours.note).groups()
    # 8 probes and, of truncated distortion, 40 steps at least, each a product there and one back.
    assert evaluations == "80"
    half = (float(products) - 8) / 2
    assert 40 <= half < 300 / 4
    encoder, denoiser, forward, backward = bare.values()
    expected = encoder + 80 * denoiser + half * forward + (8 + half) * backward
    assert ours.bound == pytest.approx(expected)
    stages = [lines[name] for name in ("encode", "influence", "distortion", "denoiser", "attacks without denoiser")]
    assert sum(line.share or 0 for line in stages) == pytest.approx(1)
    assert sum(line.bound or 0 for line in stages) == pytest.approx(expected)
    assert lines["ours is faster by"].value == pytest.approx(lines["the published procedure"].value / ours.value)
    for mask in ("plain", "lowest 40% dropped", "random 40% dropped"):
        assert lines[f"agreement: statistics, {mask}"].value < 1e-2
    assert lines["agreement: influence"].value < 1e-4
    assert lines["agreement: distortion"].value < 1e-3
    assert 0 <= lines["AUROC in float32"].value <= 1


def test_the_auditor_agrees_with_the_published_procedure(measured: Measured) -> None:
    ours, theirs = measured.ours, measured.theirs
    influence, distortion = (
        np.concatenate([getattr(batch, name) for batch in ours]) for name in ("influence", "distortion")
    )
    np.testing.assert_allclose(influence, theirs.influence.numpy(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(distortion, theirs.distortion.numpy(), rtol=1e-3)
    mine = audit.our_statistics(ours)
    assert mine.keys() == theirs.statistics.keys()
    for key, values in mine.items():
        # y_t - x_t of nearly equal numbers is less exact than the formula without it.
        tolerance = 1e-2 if key[0] == "secmi" else 1e-3
        np.testing.assert_allclose(values.numpy(), theirs.statistics[key].numpy(), rtol=tolerance)


def test_pictures_are_members_and_heldout_by_turns() -> None:
    pictures = demo_pictures(5, 16)
    assert pictures.pixels.shape == (5, 3, 16, 16)
    assert [key.split("-")[0] for key in pictures.ids] == ["members", "heldout", "members", "heldout", "members"]
    assert pictures.member.tolist() == [True, False, True, False, True]
    assert [len(some) for some in pictures.batches(2)] == [2, 2, 1]


def test_more_published_samples_than_there_are_are_refused() -> None:
    with pytest.raises(UsageError, match="published = 9: there are 8 samples"):
        build(AuditBenchmarkConfig, {"samples": 8, "published": 9})
