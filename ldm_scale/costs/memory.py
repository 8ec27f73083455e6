"""The memory that a batch of an audit will take on an auditor's device, by the shapes of the target. Torch only."""

import math
from dataclasses import dataclass

import torch

from ldm_scale.auditor import (
    SLQ_PROBES,
    calibration_copies,
    evaluations_at_once,
    measured_decoder,
    products_memory,
)
from ldm_scale.config.audit import AuditConfig, distortion_estimator
from ldm_scale.costs.counts import decoder_products, distortion_products, influence_products
from ldm_scale.costs.flops import Passes
from ldm_scale.geometry.pullback import chunk_sizes
from ldm_scale.targets.base import Target

FLOAT, DOUBLE = 4, 8  # bytes


@dataclass(frozen=True)
class Memory:
    """Bytes of the device that a batch takes at most: the weights, and those of one stage after the other.

    Attributes:
        weights: of all models.
        encode: intermediate results of the encoder.
        geometry: what a chunk of products may take, at least one product, with the batch's probes or the chunk's
            columns of J.
        attacks: intermediate results of the denoiser, with the predictions that are kept.
    """

    weights: int
    encode: int
    geometry: int
    attacks: int

    @property
    def peak(self) -> int:
        return self.weights + max(self.encode, self.geometry, self.attacks)


class MemoryEstimate:
    """What batches of one configuration take of one target on the device "meta".

    Args:
        config: of the audit.
        target: on the device "meta".
        passes: of the target.
        evaluations: of the denoiser for one sample.
        device: cpu or cuda, of the auditors.

    Attributes:
        device: likewise.
        flops: operations of a sample, a product with J counted as a pass through the decoder.
        room: bytes that a chunk of products may take.
    """

    def __init__(self, config: AuditConfig, target: Target, passes: Passes, evaluations: int, device: str) -> None:
        self.device = device
        self.room = products_memory(config.geometry.memory, torch.device(device))
        self._geometry = config.geometry
        self._rows = evaluations_at_once(config.compute, torch.device(device))
        self._target = target
        self._decode = measured_decoder(target, config.geometry)
        self._passes = passes
        self._evaluations = evaluations
        self._dimensions = math.prod(target.latent_shape)
        self._image = 3 * target.image_size**2
        self._estimator = distortion_estimator(config.geometry, self._dimensions)
        self._exact = config.geometry.influence == "exact"
        products = decoder_products(config.geometry, self._dimensions)
        self.flops = evaluations * passes.evaluation.flops + products * passes.decoding.flops + passes.encoding.flops

    def of(self, batch: int) -> Memory:
        """Of so many samples, their images and latents apart, which are small."""
        passes = self._passes
        products = max(self.room, passes.product_memory)
        copies = 0 if self._exact else calibration_copies(self._geometry)
        probes = batch * copies * self._geometry.probes * self._image * FLOAT
        predictions = self._evaluations * self._dimensions * FLOAT
        return Memory(
            weights=passes.weights,
            encode=batch * passes.encoding.memory,
            geometry=products + max(probes, self._columns(batch)),
            attacks=min(self._rows, batch * self._evaluations) * passes.evaluation.memory + batch * predictions,
        )

    def fills(self, batch: int) -> bool:
        """Whether more samples would make neither a batch of the denoiser larger, nor a chunk of products."""
        vectors = influence_products(self._geometry, self._dimensions)
        products = batch * vectors * self._passes.product_memory
        return batch * self._evaluations >= self._rows and (products >= self.room or not vectors)

    def _columns(self, batch: int) -> int:
        """The largest J V of a chunk, in single and in double precision."""
        calls = [(self._dimensions, batch)] if self._exact else []
        if distortion_products(self._geometry, self._dimensions):
            measured = max(1, round(self._geometry.distortion_share * batch))
            vectors = {"exact": self._dimensions, "slq": SLQ_PROBES}.get(self._estimator, 1)
            calls.append((vectors, measured))
        sizes = [0]
        for vectors, samples in calls:
            z = torch.empty(samples, *self._target.latent_shape, device="meta")
            sizes.append(vectors * chunk_sizes(self._decode, z, vectors, self.room)[0])
        return max(sizes) * self._image * (FLOAT + DOUBLE)
