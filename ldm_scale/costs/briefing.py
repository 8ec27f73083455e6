"""What an audit is about to do, as the first lines of its log."""

import math
from collections.abc import Iterable, Iterator

from ldm_scale.auditor import UNMEASURED
from ldm_scale.config.audit import GeometryConfig, distortion_estimator
from ldm_scale.costs.batch import BatchChoice
from ldm_scale.costs.counts import decoder_products, denoiser_evaluations
from ldm_scale.data.classes import table_difference
from ldm_scale.data.manifest import bytes_apart
from ldm_scale.files.rundir import RunRecord
from ldm_scale.inputs import Inputs
from ldm_scale.report.facts import (
    SHORT,
    describe_conditioning,
    describe_lora,
    describe_precision,
    describe_ranking,
    list_timesteps,
)
from ldm_scale.report.labels import count_label, share_label
from ldm_scale.targets.class_names import read_class_names
from ldm_scale.targets.trial import describe

# Probes from which pooled influence has masks nearer the exact ones than 8 by themselves (benchmarks/README.md).
POOLED = 2
# Columns that the terms of the lines take.
WIDTH = 14


def briefing(inputs: Inputs, record: RunRecord, shards: int, batch: BatchChoice) -> Iterator[str]:
    """Target, samples, attacks and geometry with what a sample costs, and the place of the rows: a line for each."""
    yield from in_columns(describe_audit(inputs, record.members, record.heldout, shards))
    rest = ("Batch", str(batch)), ("Fingerprint", record.fingerprint[:SHORT])
    yield from in_columns([*describe_lora(record), *rest])


def in_columns(terms: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Terms and their texts as lines."""
    return (f"  {term.lower():{WIDTH}}{text}" for term, text in terms)


def describe_audit(inputs: Inputs, members: int, heldout: int, shards: int) -> Iterator[tuple[str, str]]:
    """What is audited on which samples, how, and into which folder, as pairs of a term and its description."""
    config = inputs.config
    split = "by folder" if config.split is None else f"by {config.split}"
    if config.limit is not None:
        split += f", at most {config.limit:,} of each side"
    yield "Target", f"{config.target}: {describe(inputs.target)}"
    if variants := inputs.weights.describe():
        yield "Weights", variants
    yield from describe_conditioning(config)
    yield from describe_precision(config)
    if config.reference is not None:
        yield "Reference", f"{config.reference}: the same audit of it, at the same cost, in {config.of_reference().out}"
    if difference := table_difference(inputs.manifest.classes, read_class_names(inputs.weights.target.path)):
        yield "Warning", f"the target was trained on another table of classes: {difference}"
    if config.split is None and (apart := bytes_apart(inputs.manifest)):
        yield "Warning", f"{apart}: the sides may differ in more than training; the blind control will say"
    yield "Shards", f"{config.shards}: {shards:,} to audit"
    yield "Samples", f"{members + heldout:,}: {members:,} members, {heldout:,} held-out, {split}"
    yield "Attacks", _attacks(inputs)
    yield "Geometry", _geometry(inputs)
    yield from _cheaper(config.geometry, members + heldout)
    yield "Masks", f"{config.masks.bins} bins of influence rank, each sample's own and a random one"
    yield from describe_ranking(config)
    yield "Seed", str(config.seed)
    yield "Rows", f"{config.out}/samples"
    for departure in inputs.departures:
        yield "Departure", departure


def _attacks(inputs: Inputs) -> str:
    target = inputs.target
    asked = denoiser_evaluations(inputs.attacks.values(), target.alphas_cumprod, target.latent_shape)
    named = "; ".join(f"{name}: {list_timesteps(attack.timesteps)}" for name, attack in inputs.attacks.items())
    return f"{named}; {asked:,} denoiser evaluations a sample"


def _cheaper(geometry: GeometryConfig, samples: int) -> Iterator[tuple[str, str]]:
    """Pooled influence, if it takes fewer products than each sample's own probes, its calibration set included."""
    own, pooled = samples * geometry.probes, POOLED * (samples + 2 * geometry.calibration)
    if geometry.influence == "hutchinson" and pooled < own:
        option = f"--geometry.influence pooled --geometry.probes {POOLED}"
        yield "Cheaper", f"{option}: {pooled:,} products for influences, not {own:,}; masks as good as of 8 probes"


def _geometry(inputs: Inputs) -> str:
    geometry, dimensions = inputs.config.geometry, math.prod(inputs.target.latent_shape)
    probes = "" if geometry.influence in ("exact", "off") else f", {geometry.probes} probes"
    estimator = distortion_estimator(geometry, dimensions)
    rank = f" of rank {geometry.rank}" if estimator == "truncated" else ""
    measured = "" if estimator in UNMEASURED else f" on {share_label(geometry.distortion_share)} of the samples"
    if measured and geometry.distortion_share < 1:
        measured += ", estimated on the others"
    about = "about " if estimator == "truncated" else ""
    products = f"{about}{count_label(decoder_products(geometry, dimensions))} decoder products a sample"
    return f"influence {geometry.influence}{probes}; distortion {estimator}{rank}{measured}; {products}"
