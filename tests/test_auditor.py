"""A batch of images to rows: independent of the batch, and equal to the definitions."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ldm_scale.attacks.registry import make_attack
from ldm_scale.auditor import (
    AuditedBatch,
    Auditor,
    Calibration,
    Cost,
    evaluations_at_once,
    resolve_leakage,
)
from ldm_scale.config.audit import ComputeConfig, GeometryConfig, LeakageConfig, distortion_estimator
from ldm_scale.device.draws import keyed_normal, keyed_words
from ldm_scale.errors import UsageError
from ldm_scale.geometry.pooled import Profile
from ldm_scale.geometry.pullback import Decoder, TracedDecoder, pullback_metric
from ldm_scale.randomness import keyed_generator
from ldm_scale.targets.base import to_images
from ldm_scale.targets.execution import Execution
from ldm_scale.targets.load import load_target
from tests.auditing import COUNT, KEYS, PIXELS, make_auditor
from tests.targets import tiny

CPU = torch.device("cpu")


def audit(auditor: Auditor, rows: list[int], batch_size: int = COUNT) -> AuditedBatch:
    parts = []
    for start in range(0, len(rows), batch_size):
        some = rows[start : start + batch_size]
        ids = [KEYS[row] for row in some]
        parts.append(auditor.audit(PIXELS[some], ids, [()] * len(some), [None] * len(some)))
    names = parts[0].spectra
    return AuditedBatch(
        np.concatenate([part.influence for part in parts]),
        np.concatenate([part.distortion for part in parts]),
        np.concatenate([part.stability for part in parts]),
        np.concatenate([part.leakage for part in parts]),
        np.concatenate([part.latent for part in parts]),
        {name: np.concatenate([part.spectra[name] for part in parts]) for name in names},
        sum((part.faults for part in parts), ()),
        Cost({}, sum(part.cost.evaluations for part in parts), sum(part.cost.products for part in parts)),
    )


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target that is given captions."""
    return tiny.stable_diffusion(tmp_path_factory.mktemp("captioned"))


@pytest.mark.parametrize(("conditioning", "differ"), [("sample", True), ("none", False)])
def test_the_captions_count_unless_there_is_no_conditioning(captioned: Path, conditioning: str, differ: bool) -> None:
    """Without conditioning every sample has the empty prompt."""
    auditor = make_auditor(captioned, conditioning=conditioning)
    cat, empty = (
        auditor.audit(PIXELS[:2], KEYS[:2], [[text]] * 2, [None] * 2).spectra["sima"] for text in ("a cat", "")
    )
    assert np.allclose(cat, empty, rtol=1e-6) != differ
    assert auditor.refusal(None, None) == ("no caption" if differ else None)


def count_texts(auditor: Auditor) -> list[int]:
    """How many texts its target's encoder is given, call by call from now on."""
    asked: list[int] = []
    (encoder,) = auditor._target._texts
    encoder.model.register_forward_pre_hook(lambda model, given: asked.append(len(given[0])))
    return asked


def test_a_caption_is_encoded_once_for_all_that_have_it(captioned: Path) -> None:
    """Whatever their classes; and the spectra are those of samples audited alone, to float32's rounding."""
    auditor = make_auditor(captioned)
    texts, labels = [["a cat"], ["dog"], ["a cat"], ["a cat"]], [0, 1, 2, None]
    asked = count_texts(auditor)
    found = auditor.audit(PIXELS[:4], KEYS[:4], texts, labels).spectra["sima"]
    assert asked == [2]
    again = auditor.audit(PIXELS[4:6], KEYS[4:6], [["a cat"], ["dog"]], [None] * 2).spectra["sima"]
    assert asked == [2]
    auditor.audit(PIXELS[4:6], KEYS[4:6], [["dog"], ["cat"]], [None] * 2)
    assert asked == [2, 2]
    alone = [
        make_auditor(captioned).audit(PIXELS[[n]], [KEYS[n]], [["dog" if n in (1, 5) else "a cat"]], [None])
        for n in range(6)
    ]
    expected = np.concatenate([one.spectra["sima"] for one in alone]).sum(2)
    np.testing.assert_allclose(np.concatenate([found, again]).sum(2), expected, rtol=1e-5)


@pytest.mark.parametrize(("conditioning", "texts"), [("none", [["a cat"], ["dog"], []]), ("sample", [["a cat"]] * 3)])
def test_what_all_share_is_encoded_once(captioned: Path, conditioning: str, texts: list[list[str]]) -> None:
    """In batches of three, one and two."""
    auditor = make_auditor(captioned, conditioning=conditioning)
    asked = count_texts(auditor)
    for some in ([0, 1, 2], [1], [2, 0]):
        auditor.audit(PIXELS[some], [KEYS[n] for n in some], [texts[n] for n in some], [None] * len(some))
    assert asked == [1]


SEVERAL = [["a cat", "a dog", "cat"], ["dog"], [], ["do", "a", "dog", "a cat"]]


def with_captions(target: Path, texts: list[list[str]], batch: int = COUNT, **options: object) -> np.ndarray:
    """The spectra of SimA at six timesteps, (n, 6), of pictures with these texts as captions."""
    auditor = make_auditor(target, attacks={"sima": {"timesteps": "100:700:100"}}, **options)
    count = len(texts)
    cuts = [slice(start, min(start + batch, count)) for start in range(0, count, batch)]
    parts = [auditor.audit(PIXELS[cut], KEYS[cut], texts[cut], [None] * len(texts[cut])) for cut in cuts]
    return np.concatenate([part.spectra["sima"].sum(2) for part in parts])


def by_caption(target: Path, captions: list[list[str]]) -> list[np.ndarray]:
    """For each picture, its spectra with each of its captions alone, (captions, 6)."""
    most = max(map(len, captions))
    # A short list is filled with what nothing asks for.
    tables = [with_captions(target, [some[place : place + 1] for some in captions]) for place in range(most)]
    return [np.stack([table[n] for table in tables])[: max(1, len(some))] for n, some in enumerate(captions)]


def test_of_several_captions_the_first_counts_by_default(captioned: Path) -> None:
    expected = [table[0] for table in by_caption(captioned, SEVERAL)]
    np.testing.assert_allclose(with_captions(captioned, SEVERAL), expected, rtol=1e-5)


def test_all_captions_take_turns_over_the_timesteps(captioned: Path) -> None:
    """Timestep number k is evaluated with caption k mod n; captions of unequal number stand in one batch."""
    expected = [[table[k % len(table), k] for k in range(6)] for table in by_caption(captioned, SEVERAL)]
    for batch in (1, 3, COUNT):
        found = with_captions(captioned, SEVERAL, batch, captions="all")
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert not np.allclose(expected[0], with_captions(captioned, SEVERAL)[0], rtol=1e-3)


def test_attacks_of_other_timesteps_share_the_turns(captioned: Path) -> None:
    """A timestep has one place among all that are evaluated: 100, 200, 300, 400 are captions 0, 1, 0, 1."""
    attacks = {"sima": {"timesteps": [100, 300]}, "epsilon": {"timesteps": [200, 400]}, "loss": {"timesteps": [200]}}
    pair = [["a cat", "dog"]]

    def spectra(texts: list[list[str]], **options: object) -> AuditedBatch:
        auditor = make_auditor(captioned, attacks=attacks, **options)
        return auditor.audit(PIXELS[:1], KEYS[:1], texts, [None])

    both, cat, dog = spectra(pair, captions="all"), spectra([["a cat"]]), spectra([["dog"]])
    for name, alone in (("sima", cat), ("epsilon", dog), ("loss", dog)):
        np.testing.assert_allclose(both.spectra[name], alone.spectra[name], rtol=1e-5)
    assert both.cost.evaluations == cat.cost.evaluations


def test_a_random_caption_depends_on_seed_and_sample_alone(captioned: Path) -> None:
    """One caption at all timesteps, the same in every batch; all of them are drawn, and another seed draws others."""
    several = [["a cat", "a dog", "dog"]] * 8
    tables = by_caption(captioned, several)

    def drawn(seed: int, batch: int = COUNT) -> list[int]:
        found = with_captions(captioned, several, batch, captions="random", seed=seed)
        same = [np.isclose(table, row, rtol=1e-5).all(1) for table, row in zip(tables, found, strict=True)]
        assert all(some.sum() == 1 for some in same)
        return [int(some.argmax()) for some in same]

    chosen = drawn(0)
    expected = [keyed_generator(0, key, "caption").integers(3) for key in KEYS[:8]]
    assert chosen == expected
    assert drawn(0, batch=3) == chosen
    assert drawn(1) != chosen


def test_one_class_may_stand_for_all(tmp_path: Path) -> None:
    """As if every sample were of that class: the null class of a U-Net that was trained with one."""
    target = tiny.class_unet(tmp_path)
    of_all, own = make_auditor(target, conditioning="3"), make_auditor(target)
    found = of_all.audit(PIXELS[:2], KEYS[:2], [()] * 2, [0, None]).spectra["sima"]
    np.testing.assert_allclose(found, own.audit(PIXELS[:2], KEYS[:2], [()] * 2, [3, 3]).spectra["sima"], rtol=1e-6)
    assert not np.allclose(found[0], own.audit(PIXELS[:1], KEYS[:1], [()], [0]).spectra["sima"][0], rtol=1e-3)
    assert (of_all.refusal(None, None), own.refusal(None, None)) == (None, "no class label")


def far_from_boundaries(influence: np.ndarray, bins: int, tolerance: float) -> np.ndarray:
    """Samples no two of whose influences at a bin's edge are so near that rounding may swap them; (n,) bool."""
    ordered = np.sort(influence, axis=1)
    edges = [int(np.ceil(b * influence.shape[1] / bins)) for b in range(1, bins)]
    return np.stack([ordered[:, edge] - ordered[:, edge - 1] for edge in edges]).min(0) > tolerance


@pytest.mark.parametrize(
    ("geometry", "latent"),
    [({"probes": 4, "distortion": "exact"}, "sample"), ({"influence": "exact", "distortion": "exact"}, "mode")],
)
def test_rows_do_not_depend_on_batch_size_or_order(tiny_target: Path, geometry: dict[str, object], latent: str) -> None:
    """Batches of 1, 7 and 9, shuffled: equal to a tolerance of float32 sums (1e-4)."""
    attacks = {name: {"timesteps": [0, 50]} for name in ("sima", "loss", "sima_mc", "pfami_published")}
    auditor = make_auditor(tiny_target, geometry=geometry | {"latent": "mode"}, latent=latent, attacks=attacks)
    whole = audit(auditor, list(range(9)), 32)
    order = np.random.default_rng(0).permutation(9)
    for batch_size in (1, 7):
        other = audit(auditor, order.tolist(), batch_size)
        np.testing.assert_allclose(other.influence, whole.influence[order], rtol=0, atol=1e-4)
        np.testing.assert_allclose(other.distortion, whole.distortion[order], rtol=1e-4)
        clear = far_from_boundaries(whole.influence[order], 8, 2e-4)
        assert clear.mean() > 0.5
        for name, values in whole.spectra.items():
            expected = values[order]
            np.testing.assert_allclose(other.spectra[name].sum(2), expected.sum(2), rtol=1e-4)
            np.testing.assert_allclose(other.spectra[name][clear], expected[clear], rtol=1e-3)


def test_spectra_are_the_definition_on_the_targets_own_prediction(tiny_target: Path) -> None:
    auditor, target = make_auditor(tiny_target), load_target(str(tiny_target), "cpu")
    found = audit(auditor, [4])
    with torch.no_grad():
        z = target.encode(torch.from_numpy(PIXELS[[4]]).float() / 127.5 - 1, None)
        noise = [target.predict_noise(z, tiny.at(t, z), None).flatten().double().abs() ** 4 for t in (0, 50)]
    order = np.argsort(found.influence[0], kind="stable")
    at_random = np.argsort(keyed_words(0, [KEYS[4]], "random mask", 64, CPU)[0].numpy(), kind="stable")
    for step in range(2):
        for b in range(8):
            dims, random_dims = order[b * 8 : b * 8 + 8].copy(), at_random[b * 8 : b * 8 + 8].copy()
            assert found.spectra["sima"][0, step, b] == pytest.approx(noise[step][dims].sum().item(), rel=1e-4)
            expected = noise[step][random_dims].sum().item()
            assert found.spectra["sima_random"][0, step, b] == pytest.approx(expected, rel=1e-4)


def test_without_influences_of_their_own_samples_have_the_ranking(tiny_target: Path) -> None:
    """No product is made, and both orders are the ranking's."""
    ranking = np.random.default_rng(0).normal(size=64)
    geometry, masks = {"influence": "off", "probes": 2}, {"bins": 8, "ranking": "calibration"}
    auditor = make_auditor(tiny_target, Calibration(ranking=ranking), geometry=geometry, masks=masks)
    found = audit(auditor, [0, 1, 2])
    np.testing.assert_allclose(found.influence, np.tile(ranking, (3, 1)), rtol=1e-6)
    np.testing.assert_array_equal(found.spectra["sima"], found.spectra["sima_global"])
    assert np.isnan(found.distortion).all()
    assert np.isnan(found.stability).all()
    assert found.cost.products == 0
    assert not any(found.faults)
    probed = make_auditor(tiny_target, geometry={"probes": 2, "distortion": "off"})
    [estimate] = auditor.calibrate(PIXELS[:3], KEYS[:3])
    np.testing.assert_allclose(estimate, audit(probed, [0, 1, 2]).influence, atol=1e-4)


def test_products_are_as_precise_as_asked_for(tiny_target: Path) -> None:
    exact = audit(make_auditor(tiny_target, geometry={"influence": "exact", "distortion": "off"}), [0, 1])
    geometry = {"influence": "exact", "distortion": "off", "precision": "bfloat16"}
    rounded = audit(make_auditor(tiny_target, geometry=geometry), [0, 1])
    differences = np.abs(rounded.influence - exact.influence)
    assert 1e-4 < differences.mean() < 0.02
    assert rounded.influence.dtype == np.float32


def test_seed_and_key_decide_the_probes(tiny_target: Path) -> None:
    first = audit(make_auditor(tiny_target), [0, 1])
    again = audit(make_auditor(tiny_target), [0, 1])
    other = audit(make_auditor(tiny_target, seed=1), [0, 1])
    np.testing.assert_array_equal(first.influence, again.influence)
    assert (np.abs(first.influence - other.influence).max(1) > 0.1).all()


def test_seed_and_key_decide_the_noise_of_attacks(tiny_target: Path) -> None:
    attacks = {"loss": {"timesteps": [50], "p": 2}}
    target = load_target(str(tiny_target), "cpu")
    abar = target.alphas_cumprod[50].item()
    for seed in (0, 1):
        found = audit(make_auditor(tiny_target, attacks=attacks, seed=seed), [3, 8]).spectra["loss"].sum((1, 2))
        for row, value in zip((3, 8), found, strict=True):
            e = keyed_normal(seed, [KEYS[row]], "noise 50", target.latent_shape, CPU)
            with torch.no_grad():
                z = target.encode(to_images(PIXELS[[row]], CPU), None)
                noise = target.predict_noise(abar**0.5 * z + (1 - abar) ** 0.5 * e, tiny.at(50, z), None)
            assert value == pytest.approx((e - noise).square().sum().item(), rel=1e-4)


def test_the_distortion_share_is_drawn_by_key(tiny_target: Path) -> None:
    auditor = make_auditor(tiny_target, geometry={"probes": 2, "distortion": "exact", "distortion_share": 0.3})
    measured = np.isfinite(audit(auditor, list(range(12)), 5).distortion)
    expected = [keyed_generator(0, key, "distortion").random() < 0.3 for key in KEYS[:12]]
    assert measured.tolist() == expected
    assert 0 < sum(expected) < 12


def test_exact_and_hutchinson_runs_measure_the_same_distortion(tiny_target: Path) -> None:
    exact = audit(make_auditor(tiny_target, geometry={"influence": "exact", "distortion": "exact"}), [0, 1])
    probed = audit(make_auditor(tiny_target, geometry={"probes": 2, "distortion": "exact"}), [0, 1])
    np.testing.assert_allclose(probed.distortion, exact.distortion, rtol=1e-4)


def test_a_broken_target_is_not_called_finite(tiny_target: Path) -> None:
    auditor = make_auditor(tiny_target)
    predict = auditor._target.predict_noise

    def broken(z: torch.Tensor, t: torch.Tensor, condition: None) -> torch.Tensor:
        noise = predict(z, t, condition)
        noise[1, 0, 0, 0] = torch.nan
        return noise

    auditor._target.predict_noise = broken  # type: ignore[method-assign]
    assert audit(auditor, [0, 1, 2]).faults == ("", "sima", "")


def test_auto_distortion_is_exact_up_to_1024_dimensions() -> None:
    assert distortion_estimator(GeometryConfig(), 1024) == "exact"
    assert distortion_estimator(GeometryConfig(), 1025) == "bound"
    assert distortion_estimator(GeometryConfig(influence="off"), 1024) == "off"
    for estimator in ("exact", "truncated", "slq", "bound", "off"):
        assert distortion_estimator(GeometryConfig(distortion=estimator), 4096) == estimator


@pytest.mark.parametrize("estimator", ["truncated", "slq"])
def test_estimated_distortions_do_not_depend_on_the_batch(tiny_target: Path, estimator: str) -> None:
    auditor = make_auditor(tiny_target, geometry={"probes": 2, "distortion": estimator, "distortion_share": 0.4})
    whole, other = audit(auditor, list(range(6)), 6), audit(auditor, [5, 3, 1, 0, 2, 4], 2)
    assert 0 < np.isfinite(whole.distortion).sum() < 6
    np.testing.assert_allclose(other.distortion, whole.distortion[[5, 3, 1, 0, 2, 4]], rtol=1e-4)


@pytest.mark.parametrize("rank", [20, 50])
def test_truncated_distortion_sums_as_many_singular_values_as_the_rank(tiny_target: Path, rank: int) -> None:
    """Of 64: those of the exact metric, whose eigenvalues are their squares."""
    geometry = {"probes": 2, "distortion": "truncated", "rank": rank}
    auditor = make_auditor(tiny_target, geometry=geometry)
    found = audit(auditor, [0, 1]).distortion
    _, z = auditor._encode(PIXELS[:2], KEYS[:2])
    values = torch.linalg.eigvalsh(pullback_metric(auditor._decoder, z, 2**28))
    np.testing.assert_allclose(found, 0.5 * values[:, -rank:].log().sum(1), rtol=1e-3)


def test_attack_and_geometry_have_each_their_latent_of_one_posterior(tiny_target: Path) -> None:
    """As in an audit that has that latent alone; the encoder is run once."""
    attacks = {"sima": {"timesteps": [50]}, "loss": {"timesteps": [50]}}
    geometry = {"probes": 2, "distortion": "exact"}

    def audited(latent: str, measured_at: str | None) -> AuditedBatch:
        auditor = make_auditor(
            tiny_target, attacks=attacks, latent=latent, geometry=geometry | {"latent": measured_at}, masks={"bins": 2}
        )
        encode, calls = auditor._target.encode, list[int]()

        def counted(images: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
            calls.append(len(images))
            return encode(images, noise)

        auditor._target.encode = counted  # type: ignore[method-assign]
        found = audit(auditor, [0, 1, 2])
        [estimate] = auditor.calibrate(PIXELS[:3], KEYS[:3])
        np.testing.assert_allclose(estimate, found.influence, atol=1e-4)
        assert calls == [3, 3]
        return found

    for latent, measured_at in (("sample", "mode"), ("mode", "sample")):
        both, attacked, measured = audited(latent, measured_at), audited(latent, None), audited(measured_at, None)
        for name in attacks:
            np.testing.assert_allclose(both.spectra[name].sum(2), attacked.spectra[name].sum(2), rtol=1e-5)
        np.testing.assert_allclose(both.influence, measured.influence, atol=1e-4)
        np.testing.assert_allclose(both.distortion, measured.distortion, rtol=1e-4)
        assert np.abs(attacked.influence - measured.influence).max() > 0.01


def test_slq_estimates_the_exact_distortion_and_truncation_is_its_part(tiny_target: Path) -> None:
    exact, slq, truncated = (
        audit(make_auditor(tiny_target, geometry={"probes": 2, "distortion": name}), [0, 1, 2]).distortion
        for name in ("exact", "slq", "truncated")
    )
    # 16 probes of 64 dimensions: a standard deviation of some nats.
    np.testing.assert_allclose(slq, exact, atol=10)
    assert (np.abs(truncated - exact) > 10).all()


def calibration_of(auditor: Auditor, rows: list[int], probes: int) -> Calibration:
    """Two estimates of each sample, that share no probe."""
    first, second = torch.from_numpy(auditor.calibrate(PIXELS[rows], [KEYS[row] for row in rows]))
    assert (first != second).all()
    shape = auditor._target.latent_shape
    return Calibration(Profile.of(first.unflatten(1, shape), second.unflatten(1, shape), probes))


def test_pooled_influence_is_nearer_to_the_exact_one_than_its_own_probes_are(tiny_target: Path) -> None:
    rows = list(range(16))
    few = make_auditor(tiny_target, geometry={"probes": 2, "distortion": "off"})
    pooling = {"influence": "pooled", "probes": 2, "distortion": "off"}
    calibration = calibration_of(make_auditor(tiny_target, geometry=pooling), list(range(16, 33)), 2)
    pooled = make_auditor(tiny_target, calibration, geometry=pooling)
    exact = make_auditor(tiny_target, geometry={"influence": "exact", "distortion": "off"})
    truth = audit(exact, rows).influence
    errors = [((audit(auditor, rows, 5).influence - truth) ** 2).mean() for auditor in (pooled, few)]
    assert errors[0] < 0.5 * errors[1]


def test_the_global_mask_bins_every_sample_by_one_ranking(tiny_target: Path) -> None:
    ranking = np.random.default_rng(0).permutation(64).astype(float)
    found = audit(make_auditor(tiny_target, Calibration(ranking=ranking)), [2, 5])
    kept = audit(make_auditor(tiny_target, attacks={"sima": {"timesteps": [0, 50], "p": 1}}), [2, 5])
    assert "sima_global" not in kept.spectra
    for row in range(2):
        # Leakage is |S_i| at the middle timestep, 50.
        vector = found.leakage[row].astype(float) ** 4
        for b in range(8):
            dims = (ranking >= 8 * b) & (ranking < 8 * b + 8)
            assert found.spectra["sima_global"][row, 1, b] == pytest.approx(vector[dims].sum(), rel=1e-4)


def test_leakage_is_the_vector_of_the_chosen_attack_and_timestep(tiny_target: Path) -> None:
    attacks = {"sima": {"timesteps": [0, 50]}, "epsilon": {"timesteps": [0, 50], "p": 1}}
    auditor = make_auditor(tiny_target, attacks=attacks, leakage={"attack": "epsilon", "timestep": 0})
    found = audit(auditor, [1, 4])
    np.testing.assert_allclose(found.leakage.sum(1), found.spectra["epsilon"][:, 0].sum(1), rtol=1e-4)


def test_the_leakage_defaults_to_the_first_attacks_middle_timestep() -> None:
    attacks = {name: make_attack(name, {"timesteps": "0:50:10"}) for name in ("loss", "sima")}
    assert resolve_leakage(LeakageConfig(), attacks) == LeakageConfig(attack="loss", timestep=20)
    assert resolve_leakage(LeakageConfig(attack="sima"), attacks).attack == "sima"
    with pytest.raises(UsageError, match=r"unknown leakage\.attack 'simaa'; did you mean 'sima'"):
        resolve_leakage(LeakageConfig(attack="simaa"), attacks)
    with pytest.raises(UsageError, match=r"leakage\.timestep = 5 is not among the timesteps of loss"):
        resolve_leakage(LeakageConfig(timestep=5), attacks)


def test_more_probes_are_steadier_and_one_or_exact_have_no_halves(tiny_target: Path) -> None:
    few, many = (
        audit(make_auditor(tiny_target, geometry={"probes": k, "distortion": "off"}), [0, 1, 2, 3]).stability
        for k in (4, 256)
    )
    assert (few[:, 0] < many[:, 0]).all()
    assert (many[:, 0] > 0.8).all()
    assert ((many >= 0) & (many <= 1)).all()
    for geometry in ({"probes": 1, "distortion": "off"}, {"influence": "exact", "distortion": "off"}):
        assert np.isnan(audit(make_auditor(tiny_target, geometry=geometry), [0]).stability).all()


def test_exact_influence_and_distortion_share_one_jacobian(tiny_target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(decode: Decoder, z: torch.Tensor, memory: int) -> torch.Tensor:
        calls.append(len(z))
        return pullback_metric(decode, z, memory)

    monkeypatch.setattr("ldm_scale.auditor.pullback_metric", counted)
    audit(make_auditor(tiny_target, geometry={"influence": "exact", "distortion": "exact"}), [0, 1, 2])
    assert calls == [3]


@pytest.mark.parametrize(
    ("attacks", "evaluations"),
    [
        ({"sima": {"timesteps": [0, 50, 70]}}, 3),
        # e_t for each timestep, shared.
        ({"loss": {"timesteps": [0, 50]}, "epsilon": {"timesteps": [50, 90]}}, 3),
        # e0 is SimA's.
        ({"sima": {"timesteps": [0, 50]}, "pia": {"timesteps": [0, 50]}, "pian": {"timesteps": [50]}}, 2 + 2 + 1),
        # 0, 50, 100 and 150.
        ({"secmi": {"timesteps": [0, 100], "step": 50}}, 4),
        # The latent and its three crops at each timestep.
        ({"pfami": {"timesteps": [50, 100], "crops": [0.9, 0.8, 0.7]}, "loss": {"timesteps": [50]}}, 2 * 4),
    ],
)
def test_evaluations_are_counted_as_they_are_made(
    tiny_target: Path, attacks: dict[str, dict[str, object]], evaluations: int
) -> None:
    auditor = make_auditor(tiny_target, attacks=attacks)
    calls: list[int] = []
    predict = auditor._target.predict_noise

    def counted(z: torch.Tensor, t: torch.Tensor, condition: None) -> torch.Tensor:
        calls.append(len(z))
        return predict(z, t, condition)

    auditor._target.predict_noise = counted  # type: ignore[method-assign]
    assert audit(auditor, [0, 1, 2], 2).cost.evaluations == sum(calls) == 3 * evaluations


@pytest.mark.parametrize(
    ("geometry", "products"),
    [
        ({"probes": 5, "distortion": "off"}, 5),
        # One Jacobian, of 64 dimensions.
        ({"influence": "exact", "distortion": "off"}, 64),
        ({"influence": "exact", "distortion": "exact"}, 64),
        ({"probes": 5, "distortion": "exact"}, 5 + 64),
        # 16 probes, 30 steps there and back.
        ({"probes": 5, "distortion": "slq"}, 5 + 16 * 30 * 2),
        # However little is done at once.
        ({"probes": 5, "distortion": "exact", "memory": 1}, 5 + 64),
    ],
)
def test_products_with_the_decoder_are_counted(tiny_target: Path, geometry: dict[str, object], products: int) -> None:
    assert audit(make_auditor(tiny_target, geometry=geometry), [0, 1, 2], 2).cost.products == 3 * products


def test_truncated_distortion_takes_fewer_products_than_the_paper(tiny_target: Path) -> None:
    """300 there; here 2 in each of 40 steps at least, and of all 64 at most."""
    found = audit(make_auditor(tiny_target, geometry={"probes": 5, "distortion": "truncated"}), [0, 1, 2], 2)
    assert 3 * (5 + 2 * 40) <= found.cost.products <= 3 * (5 + 2 * 64)


def test_products_are_those_of_the_samples_that_are_measured(tiny_target: Path) -> None:
    found = audit(make_auditor(tiny_target, geometry={"probes": 2, "distortion_share": 0.3}), list(range(12)), 5)
    measured = int(np.isfinite(found.distortion).sum())
    assert 0 < measured < 12
    assert found.cost.products == 12 * 2 + measured * 64


def test_each_stage_takes_its_time(tiny_target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on by a second whenever the target works: one encoding, one batch of evaluations.

    Of the decoder the memory of a product is measured, and the products are traced: a forward pass each.
    """
    auditor, now = make_auditor(tiny_target), [0.0]
    auditor._decoder = TracedDecoder(auditor._target.decode)

    def ticking(work: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def tick(*arguments: object) -> torch.Tensor:
            now[0] += 1
            return work(*arguments)

        return tick

    for owner, name in ((auditor._target, "encode"), (auditor._decoder, "decode"), (auditor._target, "predict_noise")):
        monkeypatch.setattr(owner, name, ticking(getattr(owner, name)))
    monkeypatch.setattr("ldm_scale.device.stopwatch.time.perf_counter", lambda: now[0])
    cost = auditor.audit(PIXELS[:2], KEYS[:2], [()] * 2, [None] * 2).cost
    assert cost.seconds == {"encode": 1, "geometry": 2, "attacks": 1}


@pytest.mark.parametrize("at_once", [1, 5, 32])
def test_rows_do_not_depend_on_how_many_evaluations_are_one_batch(tiny_target: Path, at_once: int) -> None:
    attacks = {name: {"timesteps": [0, 50, 100]} for name in ("sima", "loss", "pia", "secmi", "pfami")}
    whole = audit(make_auditor(tiny_target, attacks=attacks, compute={"evaluations": 1000}), [0, 1, 2, 3])
    parted = audit(make_auditor(tiny_target, attacks=attacks, compute={"evaluations": at_once}), [0, 1, 2, 3])
    assert parted.cost.evaluations == whole.cost.evaluations
    for name, values in whole.spectra.items():
        np.testing.assert_allclose(parted.spectra[name], values, rtol=1e-3, atol=1e-7 * values.max())


@pytest.mark.parametrize(("samples", "expected"), [(1, [6]), (2, [8, 4]), (5, [8, 8, 8, 6])])
def test_few_samples_fill_the_denoisers_batch_with_timesteps(
    tiny_target: Path, samples: int, expected: list[int]
) -> None:
    """Six timesteps and eight evaluations at once."""
    attacks = {"sima": {"timesteps": "0:60:10"}}
    auditor, asked = make_auditor(tiny_target, attacks=attacks, compute={"evaluations": 8}), list[int]()
    auditor._target._denoiser.register_forward_pre_hook(lambda model, given: asked.append(len(given[0])))
    audit(auditor, list(range(samples)))
    assert asked == expected


def test_a_denoiser_that_runs_out_of_memory_is_asked_for_less_from_then_on(tiny_target: Path) -> None:
    attacks = {"sima": {"timesteps": [0, 10, 20, 30]}}
    expected = audit(make_auditor(tiny_target, attacks=attacks), [0, 1, 2]).spectra["sima"]
    auditor, asked = make_auditor(tiny_target, attacks=attacks), list[int]()
    predict = auditor._target.predict_noise

    def small(z: torch.Tensor, t: torch.Tensor, condition: None) -> torch.Tensor:
        asked.append(len(z))
        if len(z) > 7:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return predict(z, t, condition)

    auditor._target.predict_noise = small  # type: ignore[method-assign]
    for _ in range(2):
        np.testing.assert_allclose(audit(auditor, [0, 1, 2]).spectra["sima"], expected, rtol=1e-3)
    assert asked == [12, 6, 6, 6, 6]


def test_a_bfloat16_denoisers_spectra_are_near_and_its_geometry_is_the_same(tiny_target: Path) -> None:
    """Sums of fourth powers of what is rounded to 8 bits."""
    auditor = make_auditor(tiny_target, geometry={"probes": 4, "distortion": "exact"})
    rounded = Auditor(load_target(str(tiny_target), "cpu", execution=Execution("bfloat16")), auditor._config)
    plain, half = (audit(each, [0, 1, 2, 3]) for each in (auditor, rounded))
    np.testing.assert_array_equal(half.influence, plain.influence)
    np.testing.assert_array_equal(half.distortion, plain.distortion)
    assert half.spectra["sima"].dtype == np.float32
    total, expected = half.spectra["sima"].sum(2), plain.spectra["sima"].sum(2)
    np.testing.assert_allclose(total, expected, rtol=0.05)
    assert not np.allclose(total, expected, rtol=1e-5)


@pytest.mark.parametrize(("device", "at_once"), [("cpu", 64), ("cuda", 256)])
def test_how_many_evaluations_are_one_batch_is_the_devices_unless_it_is_said(device: str, at_once: int) -> None:
    assert evaluations_at_once(ComputeConfig(), torch.device(device)) == at_once
    assert evaluations_at_once(ComputeConfig(evaluations=3), torch.device(device)) == 3


@pytest.mark.parametrize(
    "make", [tiny.vq_ldm, tiny.strided, tiny.class_token, tiny.class_unet, tiny.dit, tiny.stable_diffusion]
)
def test_every_family_is_audited(make: Callable[[Path], Path], tmp_path: Path) -> None:
    """Finite rows, the same alone as beside others; if there is a condition, the rows depend on it."""
    attacks = {name: {"timesteps": [0, 50]} for name in ("sima", "loss", "pfami")}
    auditor = make_auditor(make(tmp_path), attacks=attacks, geometry={"probes": 2, "distortion": "off"})
    captions, labels = [["a cat"], [], ["a dog"]], [0, 4, 2]
    whole = auditor.audit(PIXELS[:3], KEYS[:3], captions, labels)
    alone = auditor.audit(PIXELS[1:2], KEYS[1:2], captions[1:2], labels[1:2])
    other = auditor.audit(PIXELS[1:2], KEYS[1:2], captions[:1], labels[:1])
    assert not any(whole.faults)
    for name in attacks:
        total, by_itself, conditioned = (part.spectra[name].sum(2) for part in (whole, alone, other))
        np.testing.assert_allclose(by_itself[0], total[1], rtol=1e-3)
        assert np.allclose(conditioned, by_itself, rtol=1e-6) == (make in (tiny.vq_ldm, tiny.strided))
