"""What an audit would take, in words, from configurations alone: no Ray, no weights, nothing written."""

import math
from collections.abc import Iterator

from ldm_scale.auditor import measured_decoder
from ldm_scale.config.audit import CALIBRATED, AuditConfig, HardwareConfig
from ldm_scale.config.published import Procedure
from ldm_scale.costs.batch import BatchChoice, choose_batch, fitting_batch
from ldm_scale.costs.briefing import WIDTH, describe_audit, in_columns
from ldm_scale.costs.counts import denoiser_evaluations
from ldm_scale.costs.estimate import CostEstimate, CostItem
from ldm_scale.costs.flops import measure_target
from ldm_scale.costs.memory import MemoryEstimate
from ldm_scale.device.choose import choose_device
from ldm_scale.errors import UsageError
from ldm_scale.inputs import Inputs, check_inputs, count_sides, has_both_sides
from ldm_scale.report.labels import count_label, duration, scaled, share_label, three_digits
from ldm_scale.schema import BLIND, row_bytes, row_schema

# What the parts of a sample are called.
PART_NAMES = {
    "encodings": "encoding",
    "conditions": "text",
    "evaluations": "denoiser",
    "influence": "influence",
    "distortion": "distortion",
    "passes": "decoder pass",
}
COUNTED = (
    "Counted are convolutions and matrix products; a multiplication and an addition are two operations. Work on single "
    "elements, start-up and waiting come on top."
)


def estimate_audit(config: AuditConfig, hardware: HardwareConfig, procedure: Procedure | None = None) -> Iterator[str]:
    """What the audit is, what a sample, a batch and all of it take, and how long that is on this hardware, as lines.

    procedure: the authors', if the audit is to follow it.

    Raises:
        UsageError: As the audit would, except for the target's weights and the run directory, which are not read; or
            at last, a batch takes more memory than a GPU has.
    """
    inputs = check_inputs(config, outline=True, procedure=procedure)
    has_both_sides(inputs)
    members, heldout = count_sides(inputs)
    yield "dry run: no Ray is started, no run is begun"
    yield from in_columns(describe_audit(inputs, members, heldout, len(inputs.manifest.shards)))
    yield from _AuditEstimate(inputs, members + heldout, hardware).lines()


class _AuditEstimate:
    """What is counted on the target's shapes, in words."""

    def __init__(self, inputs: Inputs, samples: int, hardware: HardwareConfig) -> None:
        target = inputs.target
        self._evaluations = denoiser_evaluations(inputs.attacks.values(), target.alphas_cumprod, target.latent_shape)
        self._inputs = inputs
        self._config = inputs.config
        self._samples = samples
        self._hardware = hardware
        # Captions are padded, so all take what the empty one takes; a class is only a number.
        decode = measured_decoder(target, inputs.config.geometry)
        self._arithmetic = measure_target(target, lambda: target.condition([""], [0]), decode)
        self._estimate = CostEstimate(inputs.config, target, self._arithmetic, self._evaluations)
        self._sample = self._estimate.sample()
        # Unless a CPU is asked for, the estimate is for a GPU, wherever it is made.
        device = choose_device(inputs.config.compute.device, 0, grows=True)
        self._memory = MemoryEstimate(inputs.config, target, self._arithmetic, self._evaluations, device)
        asked = inputs.config.compute.batch_size
        if asked is None:
            self._batch = choose_batch(self._memory, hardware.memory, samples, self._gpus)
        else:
            self._batch = BatchChoice(asked, "as asked for")

    @property
    def _gpus(self) -> int:
        compute = self._config.compute
        return self._hardware.gpus or (compute.gpus[1] if compute.gpus else 1)

    def lines(self) -> Iterator[str]:
        """A table of what a sample takes, and what follows for the audit."""
        yield f"a sample, at {scaled(self._hardware.flops, 'FLOP/s')}"
        yield from self._table()
        yield "the audit"
        terms = [
            ("Products", self._products()),
            ("Batch", str(self._batch)),
            ("Memory", self._held()),
            ("Reading", self._reading()),
            ("Writing", self._writing()),
            *self._calibration(),
            ("Time", self._time()),
            ("Largest", self._largest_part()),
        ]
        yield from in_columns(terms)
        yield COUNTED
        self._check_memory()

    def _check_memory(self) -> None:
        batch, held = self._batch.size, self._hardware.memory
        if (peak := self._memory.of(batch).peak) <= held:
            return
        fitting = fitting_batch(self._memory, batch, held)
        raise UsageError(
            f"compute.batch_size = {batch:,} takes {scaled(peak, 'B')}, and a GPU has {scaled(held, 'B')} "
            "(--hardware.memory); "
            + (
                f"--compute.batch-size {fitting} fits"
                if fitting
                else "no batch fits; --geometry.memory and --compute.evaluations take less"
            )
        )

    def _table(self) -> Iterator[str]:
        """The parts of a sample that have any arithmetic, and their sum."""
        whole = self._sample.flops
        rows = [("", "count", "each", "in all", "share", "time")]
        for part, name in PART_NAMES.items():
            item: CostItem = getattr(self._sample, part)
            if item.flops:
                each, share = scaled(item.flops / item.count, "FLOP"), share_label(round(item.flops / whole, 3))
                rows.append((name, count_label(item.count), each, *self._spent(item.flops, share)))
        rows.append(("in all", "", "", *self._spent(whole, "")))
        return (f"  {row[0]:{WIDTH}}{row[1]:>8}{row[2]:>14}{row[3]:>14}{row[4]:>9}{row[5]:>11}" for row in rows)

    def _spent(self, flops: float, share: str) -> tuple[str, str, str]:
        return scaled(flops, "FLOP"), share, f"{flops / self._hardware.flops:.3g} s"

    def _products(self) -> str:
        arithmetic, memory = self._arithmetic, self._memory.room
        held = arithmetic.product_memory
        return (
            f"J v {scaled(arithmetic.pushes.each, 'FLOP')}, J^T v {scaled(arithmetic.pulls.each, 'FLOP')}, the decoder "
            f"itself {scaled(arithmetic.decoding.flops, 'FLOP')}; one holds {scaled(held, 'B')}, so that "
            f"{max(1, memory // held):,} at a time go into the {scaled(memory, 'B')} of --geometry.memory"
        )

    def _held(self) -> str:
        memory = self._memory.of(self._batch.size)
        stages = {"encoding": memory.encode, "geometry": memory.geometry, "attacks": memory.attacks}
        by_stage = ", ".join(f"{name} {scaled(size, 'B')}" for name, size in stages.items())
        return (
            f"{scaled(memory.peak, 'B')} an auditor in batches of {self._batch.size}: weights "
            f"{scaled(memory.weights, 'B')} and the most of {by_stage}"
        )

    @property
    def _shard_bytes(self) -> int:
        return sum(shard.bytes for shard in self._inputs.manifest.shards)

    def _reading(self) -> str:
        looked_up = "" if self._inputs.split is None else ", once more at first for the keys of the split"
        weights = scaled(self._arithmetic.weights, "B")
        return f"{scaled(self._shard_bytes, 'B')} of shards{looked_up}; weights, up to {weights} a node"

    def _writing(self) -> str:
        masks = self._config.masks
        steps = {name: len(attack.timesteps) for name, attack in self._inputs.attacks.items()}
        dimensions = math.prod(self._inputs.target.latent_shape)
        size = row_bytes(row_schema(dimensions, steps, masks.bins, {}, masks.ranking is not None, BLIND))
        return f"{scaled(self._samples * size, 'B')} of rows before compression, {scaled(size, 'B')} each"

    @property
    def _calibrated(self) -> int:
        """Samples of the calibration set, if there is one."""
        asked = self._config.geometry.influence == "pooled" or self._config.masks.ranking == CALIBRATED
        return min(self._config.geometry.calibration, self._samples) if asked else 0

    def _calibration(self) -> list[tuple[str, str]]:
        if not self._calibrated:
            return []
        flops = self._calibrated * self._estimate.calibration()
        return [
            ("Calibration", f"about {self._calibrated:,} samples are encoded and probed first: {scaled(flops, 'FLOP')}")
        ]

    def _time(self) -> str:
        hardware, gpus = self._hardware, self._gpus
        each = self._sample.flops / hardware.flops
        computing = (self._samples * each + self._calibrated * self._estimate.calibration() / hardware.flops) / gpus
        reads = self._shard_bytes * (1 if self._inputs.split is None else 2)
        reading = (reads / gpus + self._arithmetic.weights) / hardware.bandwidth
        wall = max(computing, reading)
        return (
            f"{three_digits(wall * gpus / 3600)} GPU hours; {duration(wall)} on {gpus:,} GPU{'s' * (gpus > 1)}: "
            f"computing {duration(computing)}, reading meanwhile {duration(reading)}; "
            f"{three_digits(3600 / each)} samples a GPU hour"
        )

    def _largest_part(self) -> str:
        """The most expensive part, and the option that halves it."""
        part = max(PART_NAMES, key=lambda name: getattr(self._sample, name).flops)
        share = share_label(round(getattr(self._sample, part).flops / self._sample.flops, 2))
        return f"{PART_NAMES[part]}, {share} of the arithmetic; {self._halved(part)}"

    def _halved(self, part: str) -> str:
        geometry = self._config.geometry
        match part:
            case "evaluations":
                return "every other of the attacks' timesteps (--attacks.NAME.timesteps) takes half"
            case "distortion":
                return f"--geometry.distortion-share {geometry.distortion_share / 2:g} takes half"
            case "influence" if geometry.influence == "exact":
                return f"--geometry.influence hutchinson takes {geometry.probes:,} products a sample instead"
            case "influence" if geometry.probes > 1:
                return f"--geometry.probes {geometry.probes // 2} takes half"
        return "fewer pixels (--images.size) take less, if the target takes them"
