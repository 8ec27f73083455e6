"""What a sample of an audit will take, part by part: the numbers of `counts` times the operations of `flops`.

Torch only.
"""

import math
from dataclasses import dataclass

from ldm_scale.auditor import calibration_copies
from ldm_scale.config.audit import AuditConfig, distortion_estimator
from ldm_scale.costs.counts import distortion_products
from ldm_scale.costs.flops import Arithmetic
from ldm_scale.geometry.truncated import usual_rounds
from ldm_scale.targets.base import Target


@dataclass(frozen=True)
class CostItem:
    """A part of what a sample takes: how many of what it is made of, and their operations; means over all samples."""

    count: float
    flops: float


@dataclass(frozen=True)
class SampleCost:
    """What a sample takes, part by part.

    Attributes:
        encodings: of the image.
        conditions: texts through their encoders.
        evaluations: of the denoiser.
        influence: products with the decoder's Jacobian.
        distortion: likewise.
        passes: linearisations of the decoder, from which these products begin.
    """

    encodings: CostItem
    conditions: CostItem
    evaluations: CostItem
    influence: CostItem
    distortion: CostItem
    passes: CostItem

    @property
    def flops(self) -> float:
        """Operations in all."""
        return sum(item.flops for item in vars(self).values())


@dataclass(frozen=True)
class _Work:
    """Of one sample: vectors multiplied with J (pushed) and J^T (pulled), and passes that these begin from."""

    pushed: float = 0
    pushing: float = 0
    pulled: float = 0
    pulling: float = 0

    def __mul__(self, times: float) -> "_Work":
        return _Work(*(count * times for count in vars(self).values()))

    def multiplied(self, arithmetic: Arithmetic) -> CostItem:
        flops = self.pushed * arithmetic.pushes.each + self.pulled * arithmetic.pulls.each
        return CostItem(self.pushed + self.pulled, flops)

    def passed(self, arithmetic: Arithmetic) -> CostItem:
        flops = self.pushing * arithmetic.pushes.shared + self.pulling * arithmetic.pulls.shared
        return CostItem(self.pushing + self.pulling, flops)


class CostEstimate:
    """What one configuration takes of one target on the device "meta".

    evaluations: of the denoiser for one sample.
    """

    def __init__(self, config: AuditConfig, target: Target, arithmetic: Arithmetic, evaluations: int) -> None:
        self._geometry = config.geometry
        # What all samples share is made once an auditor.
        self._conditions = int(config.conditioning == "sample")
        self._arithmetic = arithmetic
        self._evaluations = evaluations
        self._dimensions = math.prod(target.latent_shape)

    def sample(self) -> SampleCost:
        """The mean over all samples."""
        arithmetic = self._arithmetic
        own = self._geometry.influence != "off"
        influence, distortion = self._influence() * own, self._distortion() * self._geometry.distortion_share
        begun = [products.passed(arithmetic) for products in (influence, distortion)]
        return SampleCost(
            encodings=CostItem(1, arithmetic.encoding.flops),
            conditions=CostItem(self._conditions, self._conditions * arithmetic.condition.flops),
            evaluations=CostItem(self._evaluations, self._evaluations * arithmetic.evaluation.flops),
            influence=influence.multiplied(arithmetic),
            distortion=distortion.multiplied(arithmetic),
            passes=CostItem(sum(item.count for item in begun), sum(item.flops for item in begun)),
        )

    def calibration(self) -> float:
        """Operations of one sample of the calibration set."""
        influence = self._influence(calibration_copies(self._geometry))
        parts = influence.multiplied(self._arithmetic), influence.passed(self._arithmetic)
        return self._arithmetic.encoding.flops + sum(part.flops for part in parts)

    def _influence(self, copies: int = 1) -> _Work:
        """Of a sample with so many estimates of its influences: one, but in the calibration set."""
        if self._geometry.influence == "exact":
            return _Work(pushed=self._dimensions, pushing=1)
        return _Work(pulled=copies * self._geometry.probes, pulling=1)

    def _distortion(self) -> _Work:
        """Of a sample whose distortion is measured."""
        products = distortion_products(self._geometry, self._dimensions)
        if not products:
            return _Work()
        estimator = distortion_estimator(self._geometry, self._dimensions)
        if estimator == "exact":
            return _Work(pushed=products, pushing=1)
        # With J and with J^T in turn.
        rounds = usual_rounds(self._dimensions, self._geometry.rank) if estimator == "truncated" else 1
        return _Work(pushed=products / 2, pushing=rounds, pulled=products / 2, pulling=rounds)
