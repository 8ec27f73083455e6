"""What was audited and how, as pairs of a term and its description."""

import itertools
import math
from datetime import datetime

from ldm_scale.analysis.results import DistortionEstimate, Results
from ldm_scale.config.audit import CALIBRATED, AuditConfig, GeometryConfig
from ldm_scale.config.installed import INFLUENCES
from ldm_scale.files.rundir import RunRecord
from ldm_scale.report.headline import attacks_of, rows_of
from ldm_scale.report.labels import duration

# Hex digits of a digest that are shown.
SHORT = 12
# How a time is written.
TIME = "%Y-%m-%d %H:%M:%S"


def list_timesteps(steps: tuple[int, ...]) -> str:
    """Timesteps in words, a regular range of them in short.

    >>> list_timesteps((0, 10, 20, 30))
    '4 timesteps 0, 10, ..., 30'
    """
    if len(steps) == 1:
        return f"timestep {steps[0]}"
    gaps = {after - before for before, after in itertools.pairwise(steps)}
    if len(steps) > 3 and len(gaps) == 1:
        return f"{len(steps)} timesteps {steps[0]}, {steps[1]}, ..., {steps[-1]}"
    return f"{len(steps)} timesteps {', '.join(map(str, steps))}"


def _side(audited: int, expected: int) -> str:
    return f"{audited:,}" if audited == expected else f"{audited:,} of {expected:,}"


def _attacks(results: Results, record: RunRecord) -> str:
    """Every attack with its timesteps, and whether its score is their mean."""
    averaged = {name for name in attacks_of(results) if rows_of(results, name)["plain"].heldout_choice.timestep is None}
    return "; ".join(
        f"{name}: {list_timesteps(steps)}{' (the mean over them)' if name in averaged else ''}"
        for name, steps in record.timesteps.items()
    )


def _influence(geometry: GeometryConfig, shape: tuple[int, ...]) -> str:
    probes = "" if geometry.influence in ("exact", "off") else f", {geometry.probes} probes a sample"
    pooled = f" and the mean of about {geometry.calibration:,} calibration samples" * (geometry.influence == "pooled")
    latent = f"latent {' x '.join(map(str, shape))} = {math.prod(shape):,} dimensions"
    kind = "the one ranking stands for each sample's own" if geometry.influence == "off" else geometry.influence
    precision = "" if geometry.precision == "float32" else f", products in {geometry.precision}"
    return f"{kind}{probes}{pooled}{precision}; {latent}"


def _stability(results: Results, geometry: GeometryConfig) -> str:
    """How steady the influences are, or why that is unknown."""
    if results.stability is None:
        reasons = {"exact": "exact influences, none is estimated", "off": "no sample has influences of its own"}
        if geometry.influence not in INFLUENCES:
            return "another package's estimator, whose probes are its own"
        return reasons.get(geometry.influence, "one probe has no two halves")
    return (
        f"the two halves of {results.stability.probes} probes a sample correlate by "
        f"{results.stability.correlation:.3f} (Spearman)"
    )


def describe_ranking(config: AuditConfig) -> list[tuple[str, str]]:
    """The source of the one ranking for all samples, if there is one."""
    source = config.masks.ranking
    if source is None:
        return []
    means = f"mean influences of about {config.geometry.calibration:,} calibration samples"
    return [("Ranking", f"one for all samples, from {means if source == CALIBRATED else source}")]


def describe_estimate(estimate: DistortionEstimate) -> str:
    """What distortion is taken from if it was not measured, and with which error."""
    if math.isnan(estimate.residual):
        return f"the sum of the influences, an upper bound, of {estimate.samples:,} samples"
    return (
        f"estimated from the sum of the influences of {estimate.samples:,} samples (where it was measured, a line "
        f"through the others gives a rank correlation of {estimate.correlation:.3f}, and a residual of "
        f"{estimate.residual:.3g} nats of a spread of {estimate.spread:.3g})"
    )


def _distortion(results: Results, geometry: GeometryConfig) -> str:
    rows, measured, said = results.members + results.heldout, results.distortion_measured, []
    if measured:
        said.append(f"measured on {measured:,} of {rows:,} samples (geometry.distortion: {geometry.distortion})")
    if results.distortion_estimate is not None:
        said.append(describe_estimate(results.distortion_estimate))
    return "; ".join(said) or "not measured"


def describe_lora(record: RunRecord) -> list[tuple[str, str]]:
    """The LoRA that was fused into the target, if there is one."""
    config = record.config
    if config.lora is None:
        return []
    digest = record.science["lora"]["weights"][:SHORT]
    return [("LoRA", f"{config.lora} at scale {config.lora_scale:g} (SHA-256 {digest})")]


def describe_conditioning(config: AuditConfig) -> list[tuple[str, str]]:
    """What the denoiser was given in place of each sample's own first caption or class, if anything."""
    match config.conditioning:
        case "sample" if config.captions == "first":
            return []
        case "sample":
            chosen = {"random": "a random one of each sample's", "all": "all of each sample's, in turn over timesteps"}
            return [("Captions", chosen[config.captions])]
        case "none":
            return [("Conditioning", "none for any sample: the empty prompt, or the null class")]
        case number:
            return [("Conditioning", f"class {number} for every sample")]


def describe_precision(config: AuditConfig) -> list[tuple[str, str]]:
    """The precision of the denoiser, if it is not float32."""
    return [] if config.precision == "float32" else [("Precision", f"the denoiser in {config.precision}")]


def describe_times(record: RunRecord, latest: datetime | None) -> list[tuple[str, str]]:
    """When attacks, timesteps and seed were fixed, if the run says, and when the last rows came."""
    said = []
    if record.fixed is not None:
        said.append(("Fixed", f"attacks, timesteps and seed on {record.fixed:{TIME}} UTC, before the first row"))
    if latest is not None:
        later = "" if record.fixed is None else f", {duration((latest - record.fixed).total_seconds())} after that"
        said.append(("Last rows", f"{latest:{TIME}} UTC by the time of their file{later}"))
    return said


def warnings_of(results: Results) -> list[str]:
    """Numbers not to trust and why, and how many samples have neither a row nor a reject."""
    absent = max(results.expected - results.members - results.heldout - sum(results.rejected.values()), 0)
    unfinished = f"{absent:,} samples have neither a row nor a reject: run the audit again to finish it, then reduce"
    return [*results.warnings, *([unfinished] if absent else [])]


def facts(results: Results, record: RunRecord, latest: datetime | None = None) -> list[tuple[str, str]]:
    """What was audited, on which samples, how, and when; latest: the time of the last rows."""
    config = record.config
    inputs = {
        "shards": config.shards,
        "target": config.target,
        "split": config.split or "by folder, members/ and heldout/",
    }
    if config.limit is not None:
        inputs["split"] += f"; a quick look at no more than {config.limit:,} of each"
    named = {name: f"{text} (SHA-256 {results.inputs[name][:SHORT]})" for name, text in inputs.items()}
    sides = f"{_side(results.members, record.members)} members, {_side(results.heldout, record.heldout)} held-out"
    return [
        ("Target", named["target"]),
        *describe_lora(record),
        *describe_conditioning(config),
        *describe_precision(config),
        ("Shards", named["shards"]),
        ("Split", named["split"]),
        ("Audited", f"{sides}; {sum(results.rejected.values()):,} rejected"),
        ("Attacks" if len(record.timesteps) > 1 else "Attack", _attacks(results, record)),
        *describe_times(record, latest),
        ("Influence", _influence(config.geometry, record.latent_shape)),
        ("Stability", _stability(results, config.geometry)),
        *describe_ranking(config),
        ("Distortion", _distortion(results, config.geometry)),
        *(("From", f"{package}: {name}") for name, package in record.science.get("packages", {}).items()),
        ("Seed", str(config.seed)),
        ("Command", config.command()),
        ("Fingerprint", results.fingerprint[:SHORT]),
    ]
