"""The shipped demo: what it holds, what its target was seen to do, and its audit from end to end on a cut."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

from ldm_scale.analysis.metrics import NAMES, evaluate
from ldm_scale.analysis.results import Results
from ldm_scale.analysis.scores import Mask, mask_score
from ldm_scale.attacks.spectra import rank_bins, spectrum
from ldm_scale.config.base import DEMO
from ldm_scale.config.data import ImageConfig
from ldm_scale.data.images import open_image, preprocess
from ldm_scale.data.manifest import MANIFEST, Manifest, read_manifest
from ldm_scale.data.samples import Sample
from ldm_scale.data.shards import read_shard
from ldm_scale.files.storage import Location
from ldm_scale.geometry.influence import exact_influence, hutchinson_influence, probe_squares
from ldm_scale.geometry.pullback import pullback_metric
from ldm_scale.targets.base import Target
from ldm_scale.targets.load import load_target
from tests.targets import tiny

SHARDS = DEMO / "shards"
MEMORY = 2**28


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return read_manifest(Location.of(SHARDS))


@pytest.fixture(scope="module")
def samples(manifest: Manifest) -> list[tuple[Sample, bool]]:
    return [
        (sample, shard.name.startswith("members/"))
        for shard in manifest.shards
        for sample in read_shard(Location.of(SHARDS), shard)
    ]


@pytest.fixture(scope="module")
def target() -> Target:
    return load_target(str(DEMO / "target"), "cpu")


@pytest.fixture(scope="module")
def latents(samples: list[tuple[Sample, bool]], target: Target) -> torch.Tensor:
    """Samples of the posterior, as the target was trained on."""
    pixels = [preprocess(open_image(sample.image, 10**6), ImageConfig(), 32) for sample, _ in samples]
    images = torch.from_numpy(np.stack(pixels)).float() / 127.5 - 1
    noise = torch.randn(len(samples), *target.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.cat([target.encode(*some) for some in zip(images.split(100), noise.split(100), strict=True)])


@pytest.fixture(scope="module")
def member(samples: list[tuple[Sample, bool]]) -> np.ndarray:
    return np.array([is_member for _, is_member in samples])


def test_it_fits_into_sixteen_megabytes_with_its_notice() -> None:
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file()) < 16 * 2**20
    assert "Apache License" in (DEMO / "NOTICE").read_text()


def test_it_holds_1200_distinct_captioned_and_labelled_pictures(
    manifest: Manifest, samples: list[tuple[Sample, bool]]
) -> None:
    assert len(samples) == len({sample.key for sample, _ in samples}) == 1200
    assert len({sample.image for sample, _ in samples}) == 1200
    assert sum(is_member for _, is_member in samples) == 600
    assert all(sample.caption for sample, _ in samples)
    assert {sample.label for sample, _ in samples} <= set(range(len(manifest.classes)))
    assert all(open_image(sample.image, 10**6).size == (32, 32) for sample, _ in samples)


def test_no_picture_stands_on_both_sides(samples: list[tuple[Sample, bool]], member: np.ndarray) -> None:
    """No member is within an RMS of 0.1 of a held-out picture (of the 32 px files; the guard saw 64 px ones)."""
    pixels = np.stack([np.asarray(open_image(sample.image, 10**6).convert("RGB")) for sample, _ in samples])
    flat = pixels.reshape(len(pixels), -1).astype(np.float64) / 255
    ours, theirs = flat[member], flat[~member]
    squares = (ours**2).sum(1)[:, None] + (theirs**2).sum(1)[None] - 2 * ours @ theirs.T
    assert np.sqrt(squares.min() / flat.shape[1]) > 0.09


def test_weights_are_half_precision_safetensors() -> None:
    from safetensors import safe_open

    for path in (DEMO / "target").rglob("*.safetensors"):
        with safe_open(path, "pt") as tensors:
            assert all(tensors.get_tensor(name).dtype == torch.float16 for name in tensors.keys())  # noqa: SIM118
    assert not list((DEMO / "target").rglob("*.bin"))


def predict(target: Target, latents: torch.Tensor, t: int) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([target.predict_noise(some, tiny.at(t, some), None) for some in latents.split(100)]).flatten(1)


def test_the_target_memorises_visibly_but_not_wholly(target: Target, latents: torch.Tensor, member: np.ndarray) -> None:
    scores = {t: -(predict(target, latents, t).double() ** 4).sum(1).numpy() for t in (60, 120)}
    auroc = {t: evaluate(score, member)[0] for t, score in scores.items()}
    assert 0.75 < max(auroc.values()) < 0.95


def test_dropping_keeps_the_papers_order(target: Target, latents: torch.Tensor, member: np.ndarray) -> None:
    """Of every third sample, with four probes each: 40% of the lowest, at random, of the highest."""
    some, sides = latents[::3], member[::3]
    generator = torch.Generator().manual_seed(0)
    probes = torch.randn(4, len(some), 3, 32, 32, generator=generator)
    influence = hutchinson_influence(probe_squares(target.decode, some, probes, MEMORY))
    orders = {Mask.LOWEST: influence, Mask.RANDOM: torch.rand(influence.shape, generator=generator)}
    vectors = predict(target, some, 120)[None]
    lowest, random, highest = (
        evaluate(mask_score(spectrum(vectors, rank_bins(order, 20), 4.0, 20).numpy()[:, 0], mask, 8), sides)[0]
        for mask, order in (orders | {Mask.HIGHEST: influence}).items()
    )
    assert lowest > random > highest


def test_sixteen_probes_rank_as_the_exact_influence_does(target: Target, latents: torch.Tensor) -> None:
    some = latents[::400]
    probes = torch.randn(16, len(some), 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = hutchinson_influence(probe_squares(target.decode, some, probes, MEMORY))
    exact = exact_influence(pullback_metric(target.decode, some, MEMORY))
    for ours, theirs in zip(found, exact, strict=True):
        assert scipy.stats.spearmanr(ours, theirs).statistic > 0.95


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory, manifest: Manifest) -> Path:
    """One shard of members and one of held-out pictures."""
    folder = tmp_path_factory.mktemp("cut")
    shards = (manifest.shards[0], manifest.shards[-1])
    for shard in shards:
        (folder / shard.name).parent.mkdir(parents=True)
        shutil.copy(SHARDS / shard.name, folder / shard.name)
    (folder / MANIFEST).write_text(manifest.model_copy(update={"shards": shards}).model_dump_json())
    return folder


@pytest.mark.usefixtures("inline")
def test_the_demo_job_runs_end_to_end(cut: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import runpy

    from ldm_scale.cli import run_job

    job = runpy.run_path(str(DEMO.parents[1] / "jobs/demo.py"))
    out = tmp_path / "run"
    flags = ["--shards", str(cut), "--target", str(DEMO / "target"), "--out", str(out)]
    for attack in job["RECIPE"]["attacks"]:
        flags += [f"--attacks.{attack}.timesteps", "120,150"]
    flags += ["--geometry.distortion-share", "0.05"]
    assert run_job(job["__doc__"], job["RECIPE"], flags) == 0
    printed = capsys.readouterr().out
    assert f"report: {out}/report.html" in printed
    results = Results.model_validate_json((out / "results.json").read_bytes())
    assert (results.members, results.heldout, results.rejected) == (100, 100, {})
    rows = {row.row: row for row in results.headline if row.attack == "sima"}
    assert set(rows) == {"plain", "lowest", "random", "highest", "chosen", "geometry"}
    assert rows["plain"].oracle is not None
    assert 0.6 < rows["plain"].oracle.metrics.auroc.value < 1
    for row in results.headline:
        for choice in filter(None, (row.heldout_choice, row.oracle)):
            for name in NAMES:
                estimate = getattr(choice.metrics, name)
                assert 0 <= estimate.low <= estimate.high <= 1
                assert 0 <= estimate.value <= 1
            assert choice.timestep in (120, 150)
    assert 0.5 < results.combined.metrics.auroc.value < 1
    assert 0 <= results.combined.inference.p_value < 0.05
    assert results.stability is not None
    assert 0.9 < results.stability.correlation < 1
    assert 5 <= results.distortion_measured <= 40
    assert len(results.at_risk) == 10
    assert "<svg" in (out / "report.html").read_text() or "data:image" in (out / "report.html").read_text()
