"""A batch of images in, rows out: composes target, geometry and attacks. Torch only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, compress

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from ldm_scale.attacks.base import Attack, Evaluations
from ldm_scale.attacks.installed import find_attack
from ldm_scale.attacks.registry import make_attack
from ldm_scale.attacks.spectra import rank_bins, spectrum
from ldm_scale.config.audit import AuditConfig, ComputeConfig, GeometryConfig, LeakageConfig, distortion_estimator
from ldm_scale.config.installed import ATTACKS, ESTIMATORS, spell, whose
from ldm_scale.device.budget import Budget
from ldm_scale.device.draws import keyed_normal, keyed_words
from ldm_scale.device.stopwatch import Stopwatch
from ldm_scale.device.transfer import Arriving, Transfer
from ldm_scale.errors import RunError, UsageError, unknown_name
from ldm_scale.geometry.distortion import exact_distortion
from ldm_scale.geometry.influence import exact_influence, hutchinson_influence, probe_squares
from ldm_scale.geometry.installed import InfluenceEstimator, LatentBatch, find_estimator
from ldm_scale.geometry.kernels import in_bfloat16
from ldm_scale.geometry.pooled import Profile, pooled_influence
from ldm_scale.geometry.pullback import Decoder, TracedDecoder, pullback_metric
from ldm_scale.geometry.slq import slq_distortion
from ldm_scale.geometry.stability import split_half_stability
from ldm_scale.geometry.truncated import truncated_distortion
from ldm_scale.randomness import keyed_generator
from ldm_scale.schema import Order, orders, spectrum_column
from ldm_scale.targets.base import Pixels, Target, to_images
from ldm_scale.targets.captions import offered
from ldm_scale.targets.denoising import Conditioner, Conditions, Given, predict_noises
from ldm_scale.targets.execution import Execution

# Bytes of a chunk of decoder products; on the CPU, as many as its caches nearly hold.
MEMORY = {"cpu": 64 << 20, "cuda": 4 << 30}
# As in the scripts of arXiv 2511.20592.
SLQ_PROBES = 16
# The share of lowest dimensions whose overlap between two halves of the probes the rows keep: what the paper drops.
STABILITY_DROP = 0.4
# Estimators of distortion that take no product: the influences in the rows are all that they need.
UNMEASURED = ("bound", "off")
# Evaluations that are one batch for the denoiser by default; on the CPU more fit no cache.
EVALUATIONS = {"cpu": 64, "cuda": 256}
# The stages of a batch whose seconds are measured.
STAGES = ("encode", "geometry", "attacks")


@dataclass(frozen=True)
class Calibration:
    """What is known of all samples before the first row.

    Attributes:
        profile: of the influences over a calibration set, for pooled estimates.
        ranking: influences whose order is the one ranking for all samples.
    """

    profile: Profile | None = None
    ranking: Float[np.ndarray, " d"] | None = None


@dataclass(frozen=True)
class Cost:
    """What a batch took.

    Attributes:
        seconds: by stage: encode, geometry, attacks.
        evaluations: of the denoiser that were computed, one for each sample and timestep.
        products: with the decoder's Jacobian or its transpose that were computed, one for each sample and vector.
    """

    seconds: dict[str, float]
    evaluations: int
    products: int


@dataclass(frozen=True)
class AuditedBatch:
    """What was measured of n samples.

    Attributes:
        influence: (n, D) float32; the one ranking's if no sample has its own.
        distortion: (n,) float32; nan if it was not measured.
        stability: (n, 2) float32, rank correlation and overlap of the lowest 40% between two halves of the probes; nan
            if there are no two halves.
        leakage: (n, D) float32, |S_i| of one attack at one timestep.
        latent: (n, 2) float32, mean and standard deviation of the latent that is attacked.
        spectra: for each attack, its random control and its global mask, (n, T, B) float32.
        faults: (n,), what of a sample has numbers that are not finite, by name; empty if nothing has.
        cost: of the batch; no part of rows.
    """

    influence: np.ndarray
    distortion: np.ndarray
    stability: np.ndarray
    leakage: np.ndarray
    latent: np.ndarray
    spectra: dict[str, np.ndarray]
    faults: tuple[str, ...]
    cost: Cost


def products_memory(memory: int | None, device: torch.device) -> int:
    """Bytes that decoder products computed at once may hold: as configured, or the default of the kind of device."""
    return memory or MEMORY[device.type]


def measured_decoder(target: Target, config: GeometryConfig) -> Decoder:
    """The target's decoder in the precision in which its geometry is measured."""
    return in_bfloat16(target.decode) if config.precision == "bfloat16" else target.decode


def calibration_copies(config: GeometryConfig) -> int:
    """Estimates of each sample of a calibration set that share no probe: two if pooled ones are to learn from them."""
    return 2 if config.influence == "pooled" else 1


def evaluations_at_once(config: ComputeConfig, device: torch.device) -> int:
    """Evaluations that are one batch for the denoiser, if memory holds them: as configured, or the device's default."""
    return config.evaluations or EVALUATIONS[device.type]


def resolve_leakage(config: LeakageConfig, attacks: Mapping[str, Attack]) -> LeakageConfig:
    """The attack and the timestep whose |S_i| the rows keep: by default the first attack and its middle timestep.

    Args:
        config: either may be None.
        attacks: that are audited, by name.

    Raises:
        UsageError: The attack is not audited, or the timestep is not among its own.

    Example:
        >>> leakage = resolve_leakage(LeakageConfig(), {"sima": make_attack("sima", {"timesteps": "0:50:10"})})
        >>> leakage.attack, leakage.timestep
        ('sima', 20)
    """
    name = config.attack or next(iter(attacks))
    if name not in attacks:
        raise unknown_name("leakage.attack", name, attacks)
    steps = attacks[name].timesteps
    step = steps[len(steps) // 2] if config.timestep is None else config.timestep
    if step not in steps:
        raise UsageError(f"leakage.timestep = {step} is not among the timesteps of {name}")
    return LeakageConfig(attack=name, timestep=step)


def _check_vectors(name: str, vectors: Tensor, wanted: tuple[int, ...]) -> Float[Tensor, "t n d"]:
    """An attack's vectors, flat and in float32; raises RunError if they are not of the shape that is wanted."""
    if (shape := tuple(getattr(vectors, "shape", ()))) != wanted:
        raise RunError(f"{spell(find_attack(name))} gives vectors {shape}, not {wanted}")
    return vectors.flatten(2).float()


class Auditor:
    """Audits batches of one target with one configuration; a sample's row does not depend on its batch.

    Args:
        target: on the device that computes.
        config: of the audit.
        calibration: needed if the configuration asks for pooled influence or for a global mask.

    Raises:
        UsageError: An attack, an option of it or an estimator is unknown, or no leakage can be kept as configured.
    """

    def __init__(self, target: Target, config: AuditConfig, calibration: Calibration | None = None) -> None:
        self._target = target
        self._config = config
        self._calibration = calibration or Calibration()
        self._attacks = {name: make_attack(name, options) for name, options in config.attacks.items()}
        self._leakage = resolve_leakage(config.leakage, self._attacks)
        self._names = {name: name + whose(ATTACKS, name) for name in self._attacks}
        self._influence_name = "influence" + whose(ESTIMATORS, config.geometry.influence)
        self._device = target.alphas_cumprod.device
        self._products = Execution(config.geometry.precision)
        self._estimator = find_estimator(config.geometry.influence)
        self._decoder = TracedDecoder(measured_decoder(target, config.geometry))
        self._memory = products_memory(config.geometry.memory, self._device)
        self._conditioner = Conditioner(target)
        self._rows = Budget(evaluations_at_once(config.compute, self._device), "evaluation of the denoiser")
        self._transfer = Transfer(self._device)

    def refusal(self, caption: str | None, label: int | None) -> str | None:
        """Why a sample with this caption and label cannot be audited; None if it can."""
        return self._target.refusal(caption, label) if self._config.conditioning == "sample" else None

    def load(self, pixels: UInt8[np.ndarray, "n 3 H W"]) -> Arriving:
        """Start a copy of pixels, 0 to 255, to the device; what is computed there goes on meanwhile."""
        return self._transfer.begin(pixels)

    def audit(
        self,
        pixels: Pixels,
        sample_ids: Sequence[str],
        captions: Sequence[Sequence[str]],
        labels: Sequence[int | None],
    ) -> AuditedBatch:
        """Measure influence, distortion and every attack's spectra of n samples.

        Args:
            pixels: 0 to 255, of the target's image size.
            sample_ids: the keys of the samples' draws.
            captions: all of each sample.
            labels: class index of each sample; None if it has none.

        Returns:
            On the host. A sample with a number that is not finite is marked, not left out.

        Raises:
            RunError: The device does not hold one evaluation or one product.
        """
        stopwatch, made = Stopwatch(self._device), self._decoder.products
        z, measured_at = self._encode(pixels, sample_ids)
        stopwatch.mark()
        with self._products.arithmetic():
            influence, stability, pullback_metrics = self._influence(measured_at, sample_ids)
            distortion, measured = self._distortion(measured_at, sample_ids, pullback_metrics)
        stopwatch.mark()
        conditions = self._condition(sample_ids, captions, labels)
        spectra, leakage, evaluations = self._attack(z, influence, sample_ids, conditions)
        stopwatch.mark()
        finite = {self._influence_name: influence.isfinite().all(1), "distortion": distortion.isfinite() | ~measured}
        for attack, name in self._names.items():
            some = [spectra[spectrum_column(attack, order)] for order in orders(self._calibration.ranking is not None)]
            finite[name] = torch.cat(some, 1).isfinite().flatten(1).all(1)
        broken = (~torch.stack([*finite.values()], 1)).tolist()
        return AuditedBatch(
            influence.cpu().numpy(),
            distortion.cpu().numpy(),
            stability.cpu().numpy(),
            leakage.cpu().numpy(),
            torch.stack([z.flatten(1).mean(1), z.flatten(1).std(1, correction=0)], dim=1).cpu().numpy(),
            {name: values.cpu().numpy() for name, values in spectra.items()},
            tuple(", ".join(compress(finite, row)) for row in broken),
            Cost(dict(zip(STAGES, stopwatch.seconds(), strict=True)), evaluations, self._decoder.products - made),
        )

    def _condition(
        self, sample_ids: Sequence[str], captions: Sequence[Sequence[str]], labels: Sequence[int | None]
    ) -> Conditions:
        """What the denoiser is given of each sample; its captions, if there are several, take turns over timesteps.

        A timestep has one place among all that are evaluated, whatever attack asks for it: attacks share evaluations.
        """
        config, chosen = self._config, self._config.conditioning
        shared: Given = (None, None if isinstance(chosen, str) else chosen)
        wanted = [[shared]] * len(sample_ids)
        if chosen == "sample":
            wanted = [
                [(text, label) for text in offered(some, config.captions, config.seed, key) or [None]]
                for some, label, key in zip(captions, labels, sample_ids, strict=True)
            ]
        values, places = self._conditioner.make(wanted)
        evaluated = chain.from_iterable(attack.evaluated for attack in self._attacks.values())
        return Conditions.of(values, places, evaluated, self._target.alphas_cumprod)

    def calibrate(self, pixels: Pixels, sample_ids: Sequence[str]) -> Float[np.ndarray, "m n d"]:
        """Influences of samples of a calibration set, float32, each from its own probes alone (no profile is needed).

        Returns:
            So many estimates of each sample as `calibration_copies` says, of as many probes each as an audit takes.

        Raises:
            RunError: The device does not hold one product.
        """
        _, z = self._encode(pixels, sample_ids)
        probes, copies = self._config.geometry.probes, calibration_copies(self._config.geometry)
        with self._products.arithmetic():
            if self._config.geometry.influence == "exact":
                return exact_influence(pullback_metric(self._decoder, z, self._memory))[None].cpu().numpy()
            if self._estimator is not None:
                return self._ask(self._estimator, z, sample_ids)[None].cpu().numpy()
            squares = self._probe(z, sample_ids, copies * probes)
            return torch.stack([hutchinson_influence(some) for some in squares.split(probes)]).cpu().numpy()

    def _normal(self, sample_ids: Sequence[str], purpose: str, shape: tuple[int, ...]) -> Float[Tensor, "n ..."]:
        return keyed_normal(self._config.seed, sample_ids, purpose, shape, self._device)

    def _encode(
        self, pixels: Pixels, sample_ids: Sequence[str]
    ) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n c h w"]]:
        """The latents that are attacked, and those at which geometry is measured, of one posterior."""
        kinds = (self._config.latent, self._config.geometry.latent or self._config.latent)
        noise = self._normal(sample_ids, "latent", self._target.latent_shape) if "sample" in kinds else None
        if noise is not None and "mode" in kinds:
            # The mode is the sample without noise.
            noise = torch.stack([noise if kind == "sample" else torch.zeros_like(noise) for kind in kinds])
        with torch.no_grad():
            z = self._target.encode(to_images(pixels, self._device), noise).contiguous()
        attacked, measured_at = z if z.ndim == 5 else (z, z)
        return attacked, measured_at

    def _probe(self, z: Float[Tensor, "n c h w"], sample_ids: Sequence[str], count: int) -> Float[Tensor, "k n d"]:
        side = self._target.image_size
        probes = self._normal(sample_ids, "probes", (count, 3, side, side)).transpose(0, 1)
        return probe_squares(self._decoder, z, probes, self._memory)

    def _ask(
        self, estimator: InfluenceEstimator, z: Float[Tensor, "n c h w"], sample_ids: Sequence[str]
    ) -> Float[Tensor, "n d"]:
        draw = partial(self._normal, sample_ids)
        return estimator(LatentBatch(z, self._decoder, draw, self._config.geometry.probes, self._memory))

    def _estimate(self, squares: Float[Tensor, "k n d"]) -> Float[Tensor, "n d"]:
        estimate = hutchinson_influence(squares)
        if self._config.geometry.influence == "hutchinson":
            return estimate
        assert self._calibration.profile is not None
        return pooled_influence(estimate, self._calibration.profile)

    def _influence(
        self, z: Float[Tensor, "n c h w"], sample_ids: Sequence[str]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n 2"], Float[Tensor, "n d d"] | None]:
        """Influence, its split-half stability, and the exact pullback metrics if they were needed."""
        config, no_halves = self._config.geometry, z.new_full((len(z), 2), torch.nan)
        if config.influence == "off":
            assert self._calibration.ranking is not None
            return z.new_tensor(self._calibration.ranking).expand(len(z), -1), no_halves, None
        if config.influence == "exact":
            pullback_metrics = pullback_metric(self._decoder, z, self._memory)
            return exact_influence(pullback_metrics), no_halves, pullback_metrics
        if self._estimator is not None:
            return self._ask(self._estimator, z, sample_ids), no_halves, None
        squares = self._probe(z, sample_ids, config.probes)
        stability = split_half_stability(squares, self._estimate, STABILITY_DROP)
        return self._estimate(squares), torch.stack(stability, dim=1), None

    def _distortion(
        self,
        z: Float[Tensor, "n c h w"],
        sample_ids: Sequence[str],
        pullback_metrics: Float[Tensor, "n d d"] | None,
    ) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
        """Distortion, and whose distortion was measured; pullback metrics that are known already are used again."""
        config = self._config.geometry
        estimator = distortion_estimator(config, z[0].numel())
        draws = [keyed_generator(self._config.seed, key, "distortion").random() for key in sample_ids]
        measured = (torch.tensor(draws) < config.distortion_share).to(z.device) & (estimator not in UNMEASURED)
        distortion = torch.full((len(z),), torch.nan, device=z.device)
        if measured.any():
            known = None if pullback_metrics is None else pullback_metrics[measured]
            ids = [key for key, wanted in zip(sample_ids, measured.tolist(), strict=True) if wanted]
            distortion[measured] = self._measure(estimator, z[measured], ids, known)
        return distortion, measured

    def _measure(
        self,
        estimator: str,
        z: Float[Tensor, "n c h w"],
        sample_ids: Sequence[str],
        pullback_metrics: Float[Tensor, "n d d"] | None,
    ) -> Float[Tensor, " n"]:
        if estimator == "exact":
            return exact_distortion(
                pullback_metric(self._decoder, z, self._memory) if pullback_metrics is None else pullback_metrics
            )
        if estimator == "truncated":
            starts = self._normal(sample_ids, estimator, self._target.latent_shape)
            return truncated_distortion(self._decoder, z, starts, self._memory, self._config.geometry.rank)
        probes = self._normal(sample_ids, estimator, (SLQ_PROBES, *self._target.latent_shape)).transpose(0, 1)
        return slq_distortion(self._decoder, z, probes, self._memory)

    def _bins(self, influence: Float[Tensor, "n d"], sample_ids: Sequence[str]) -> dict[Order, Int[Tensor, "n d"]]:
        """The bin of each dimension under each order of the dimensions."""
        bins, dimensions = self._config.masks.bins, influence.shape[1]
        at_random = keyed_words(self._config.seed, sample_ids, "random mask", dimensions, self._device)
        found: dict[Order, Tensor] = {"influence": rank_bins(influence, bins), "random": rank_bins(at_random, bins)}
        if self._calibration.ranking is not None:
            ranking = torch.from_numpy(self._calibration.ranking).to(influence.device)
            found["global"] = rank_bins(ranking[None], bins).expand_as(influence)
        return found

    def _attack(
        self,
        z: Float[Tensor, "n c h w"],
        influence: Float[Tensor, "n d"],
        sample_ids: Sequence[str],
        conditions: Conditions,
    ) -> tuple[dict[str, Float[Tensor, "n t b"]], Float[Tensor, "n d"], int]:
        """Every attack's spectra under every order, |S_i| of the one whose leakage is kept, and evaluations made."""
        bins_by_order = self._bins(influence, sample_ids)

        denoise = partial(predict_noises, self._target, conditions, self._rows)

        def draw(purpose: str) -> Tensor:
            return self._normal(sample_ids, purpose, self._target.latent_shape)

        spectra: dict[str, Tensor] = {}
        leakage = torch.empty_like(influence)
        with torch.inference_mode():
            evaluations = Evaluations(z, self._target.alphas_cumprod, denoise, draw)
            for name, attack in self._attacks.items():
                vectors = _check_vectors(name, attack.vectors(evaluations), (len(attack.timesteps), *z.shape))
                for order, bin_of in bins_by_order.items():
                    column = spectrum_column(name, order)
                    spectra[column] = spectrum(vectors, bin_of, attack.p, self._config.masks.bins)
                if name == self._leakage.attack:
                    leakage = vectors[attack.timesteps.index(self._leakage.timestep)].abs()
        return spectra, leakage, evaluations.made
