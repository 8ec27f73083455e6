"""Size and power of the p-value: real audits of untrained targets, and draws from the rows of a trained one."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel
from jaxtyping import Bool, Float

from ldm_scale.analysis.combined import cross_fit, group_sums, least_positive, log_features
from ldm_scale.analysis.inference import detectable, higher, infer_dataset
from ldm_scale.analysis.metrics import aurocs
from ldm_scale.analysis.splithalf import best, choosing
from ldm_scale.auditor import Auditor, Calibration
from ldm_scale.benchmarks.lines import Line
from ldm_scale.benchmarks.options import DEMO_PICTURES, EvidenceBenchmarkConfig
from ldm_scale.benchmarks.pictures import Pictures, demo_pictures
from ldm_scale.config.audit import AuditConfig
from ldm_scale.config.base import DEMO, build
from ldm_scale.engine.rows import StoredRows
from ldm_scale.errors import UsageError
from ldm_scale.notebook.run import Run
from ldm_scale.targets.load import load_autoencoder
from ldm_scale.targets.unconditional import UnconditionalTarget

PART, LEVEL = "evidence", 0.05
# What an untrained target is attacked with; how many weights it has plays no part.
ATTACKS, TIMESTEPS = ("sima", "pia"), (100, 200)
CHANNELS, NORM_GROUPS = (16, 32, 32), 8
RANKED = 32


@dataclass(frozen=True)
class LabelledRows:
    """Samples: logs of each attack's statistics, then of its spectra in groups of bins; and who is a member."""

    features: Float[np.ndarray, "n f"]
    singles: int
    member: Bool[np.ndarray, " n"]

    @classmethod
    def of(cls, spectra: Sequence[Float[np.ndarray, "n _ _"]], member: Bool[np.ndarray, " n"]) -> "LabelledRows":
        """From one (n, T, B) an attack."""
        sums = group_sums(spectra)
        return cls(log_features(sums, least_positive(sums)), sum(s.shape[1] for s in spectra), member)

    def draw(self, side: int, rng: np.random.Generator) -> "LabelledRows":
        """So many of each side at random; raises UsageError if there are fewer."""
        sides = [np.flatnonzero(of) for of in (self.member, ~self.member)]
        if min(map(len, sides)) < side:
            raise UsageError(
                f"sides: the run has {len(sides[0])} members and {len(sides[1])} held-out, not {side} each"
            )
        some = np.concatenate([rng.choice(of, side, replace=False) for of in sides])
        return LabelledRows(self.features[some], self.singles, self.member[some])


@dataclass(frozen=True)
class Evidence:
    """What some rows show.

    p_value: of all halves. first: of the first half that is reported on, alone. combined, single: AUROC of the combined
    score, and of the attack and timestep that are best on the other half; means over the halves.
    """

    p_value: float
    first: float
    combined: float
    single: float


def weigh(rows: LabelledRows, halvings: int, seed: int) -> Evidence:
    """What an audit of these rows would say."""
    member, chosen = rows.member, choosing(rows.member, halvings, seed)
    odds = cross_fit(rows.features, member, chosen, seed, rows.singles)
    scores = -rows.features[:, : rows.singles]
    combined, single = [], []
    for row, one in zip(odds, chosen, strict=True):
        for half in (one, ~one):
            picked = scores[:, best(scores[~half], member[~half])]
            both = np.stack([row, picked], axis=1)[half]
            found = aurocs(both, member[half])
            combined.append(found[0])
            single.append(found[1])
    return Evidence(
        p_value=infer_dataset(odds, chosen, member).p_value,
        first=higher(odds[0, ~chosen[0]], member[~chosen[0]])[1],
        combined=float(np.mean(combined)),
        single=float(np.mean(single)),
    )


def _untrained(seed: int) -> UnconditionalTarget:
    """The demo's autoencoder, and a denoiser with random weights."""
    torch.manual_seed(seed)
    config = UNet2DModel.load_config(DEMO / "target/unet") | {
        "block_out_channels": CHANNELS,
        "norm_num_groups": NORM_GROUPS,
    }
    autoencoder = load_autoencoder(DEMO / "target/vqvae", "cpu")
    schedule = DDPMScheduler.from_pretrained(DEMO / "target/scheduler")
    return UnconditionalTarget(autoencoder, UNet2DModel.from_config(config), schedule)


def _ranking(pictures: Pictures, seed: int) -> Calibration:
    """The one ranking: by mean influence over a few pictures, of the autoencoder that all untrained targets share."""
    values = {"out": "unused", "seed": seed, "geometry": {"probes": 4}}
    auditor, some = Auditor(_untrained(seed), build(AuditConfig, values)), pictures[:RANKED]
    return Calibration(ranking=auditor.calibrate(some.pixels, some.ids)[0].mean(axis=0))


def audit_untrained(config: EvidenceBenchmarkConfig) -> Iterator[LabelledRows]:
    """The rows of an audit of each untrained target, of as many pictures of the demo, drawn and divided at random."""
    pictures = demo_pictures(DEMO_PICTURES, 32)
    ranking = _ranking(pictures, config.seed)
    values = {
        "out": "unused",
        "attacks": {name: {"timesteps": TIMESTEPS} for name in ATTACKS},
        "geometry": {"influence": "off", "distortion": "off"},
        "masks": {"ranking": "calibration"},
    }
    for number in range(config.targets):
        rng = np.random.default_rng([config.seed, number])
        some = rng.choice(len(pictures), 2 * config.samples, replace=False)
        auditor = Auditor(_untrained(number), build(AuditConfig, values | {"seed": number}), ranking)
        ids = [pictures.ids[i] for i in some]
        batch = auditor.audit(pictures.pixels[some], ids, [()] * len(some), [None] * len(some))
        yield LabelledRows.of([batch.spectra[name] for name in ATTACKS], np.arange(len(some)) < config.samples)


def read_rows(address: str) -> LabelledRows:
    """All rows of a run."""
    run = Run(address)
    # Each timestep counts, also of attacks that are averaged elsewhere.
    stored = [
        StoredRows.of(run.index, name, steps, run.record.config.masks.bins, ranked=False, mean=False)
        for name, steps in run.record.timesteps.items()
    ]
    return LabelledRows.of([rows.spectra(rows.name, slice(None)) for rows in stored], run.index.member)


def _share(p_values: Iterable[float], level: float = LEVEL) -> float:
    return float(np.mean(np.array([*p_values]) <= level))


def _size(config: EvidenceBenchmarkConfig) -> Iterator[Line]:
    found = [weigh(rows, config.halvings, config.seed) for rows in audit_untrained(config)]
    if found:
        p_values = [one.p_value for one in found]
        note = f"of {config.targets}, {config.samples} + {config.samples} pictures each; p <= 0.5: "
        yield Line(PART, f"untrained, p <= {LEVEL}", _share(p_values), note=f"{note}{_share(p_values, 0.5):.3g}")
        yield Line(PART, f"untrained, p <= {LEVEL} of one half alone", _share(one.first for one in found))


def _power(config: EvidenceBenchmarkConfig) -> Iterator[Line]:
    if config.run is None:
        return
    rows = read_rows(config.run)
    for side in config.sides:
        rng = np.random.default_rng([config.seed, side])
        found = [weigh(rows.draw(side, rng), config.halvings, draw) for draw in range(config.draws)]
        p_values = [one.p_value for one in found]
        combined, single = (np.mean([getattr(one, name) for one in found]) for name in ("combined", "single"))
        lowest, highest = min(p_values), max(p_values)
        yield Line(
            PART,
            f"{side} + {side}, p <= {LEVEL}",
            _share(p_values),
            note=f"of one half alone {_share(one.first for one in found):.3g}; p {lowest:.2g} to {highest:.2g}; "
            f"AUROC combined {combined:.3f}, best single {single:.3f}; detectable {detectable(side, side):.2f}",
        )


def run_evidence_benchmark(config: EvidenceBenchmarkConfig) -> Iterator[Line]:
    """How often p is 0.05 or less: of untrained targets, and of rows drawn from a run of a trained one.

    Raises:
        UsageError: The run has fewer rows of a side than are to be drawn.
    """
    yield from _size(config)
    yield from _power(config)
