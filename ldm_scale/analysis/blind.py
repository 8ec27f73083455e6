"""The blind control: whether members are told from held-out samples without the denoiser, by what is plain of them."""

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.polynomial.legendre import legvander
from scipy.stats import fisher_exact, ks_2samp, rankdata

from ldm_scale.analysis.combined import FITTED, cross_fit
from ldm_scale.analysis.folds import some_of_each
from ldm_scale.analysis.inference import infer_dataset
from ldm_scale.analysis.metrics import aurocs
from ldm_scale.analysis.results import BlindControl, Estimate, Telltale
from ldm_scale.analysis.splithalf import choosing
from ldm_scale.analysis.summary import delong_estimate
from ldm_scale.config.audit import AnalysisConfig
from ldm_scale.schema import FORMATS

# Shapes over the ranks of a quantity: higher, and farther out. More would cost power that a few hundred samples lack.
DEGREE = 2
# The most kinds that are looked at one by one, and that a fit tells apart.
KINDS = 256
# A feature that tells the sides apart with a higher p-value than this is not named.
NAMED = 0.05
_DIGITS = re.compile("[0-9]+")


@dataclass(frozen=True)
class Feature:
    """What is plain of n samples: a quantity, or which kind each is of.

    values: (n,), nan if it is not known; of a kind its place in `kinds`, the most frequent first.
    """

    name: str
    values: Float[np.ndarray, " n"]
    kinds: tuple[str, ...] = ()

    @classmethod
    def quantity(cls, name: str, values: Iterable[float]) -> "Feature":
        return cls(name, np.array([*values], dtype=np.float64))

    @classmethod
    def kind(cls, name: str, labels: Sequence[str]) -> "Feature":
        """Of the kind that each sample's label says."""
        found, places, counts = np.unique(np.array(labels, dtype=object), return_inverse=True, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return cls(name, np.argsort(order)[places].astype(np.float64), tuple(found[order]))

    def shapes(self) -> Float[np.ndarray, "n _"]:
        """What a linear fit weighs: Legendre polynomials of the ranks, or whether a sample is of each kind.

        Neyman's smooth test weighs them (Skandinavisk Aktuarietidskrift 1937). No labels are used. Of more kinds than
        KINDS some share a column.
        """
        if self.kinds:
            held = np.arange(min(len(self.kinds), KINDS))
            return (self.values[:, None] % KINDS == held).astype(np.float64)
        known = np.isfinite(self.values)
        rank = np.zeros(len(known))
        rank[known] = (2 * rankdata(self.values[known]) - 1) / max(1, known.sum()) - 1
        return np.column_stack([legvander(rank, DEGREE)[:, 1:] * known[:, None], ~known])


def row_features(names: Sequence[str], values: Float[np.ndarray, "n f"]) -> list[Feature]:
    """The features of the columns: those of schema.BLIND and any quantity beside, by their names.

    >>> found = row_features(["class", "width"], np.array([[7.0, 64.0], [np.nan, 32.0]]))
    >>> found[0].kinds, found[1].values
    (('7', 'none'), array([64., 32.]))
    """
    features = []
    for name, column in zip(names, values.T, strict=True):
        if name in ("class", "format"):
            called = dict(enumerate(FORMATS)) if name == "format" else {}
            numbers = [int(value) if np.isfinite(value) else None for value in column]
            labels = ["none" if number is None else called.get(number, str(number)) for number in numbers]
            features.append(Feature.kind(name, labels))
        else:
            features.append(Feature.quantity(name, column))
    return features


def name_features(sample_ids: Sequence[str]) -> list[Feature]:
    """What the last part of each sample's key says: the folders above it may be what names the sides.

    >>> [(f.name, f.kinds or f.values.tolist()) for f in name_features(["s-0/a/IMG_2041.v2"])]
    [('length', [11.0]), ('digits', [5.0]), ('number', [2041.0]), ('last digit', ('1',)), ('beginning', ('IMG_',))]
    """
    names = [sample_id.rsplit("/", 1)[-1] for sample_id in sample_ids]
    runs = [_DIGITS.findall(name) for name in names]
    # A date, a time or a counter; the first of equally long ones.
    numbers = [max(found, key=len, default="") for found in runs]
    return [
        Feature.quantity("length", map(len, names)),
        Feature.quantity("digits", (sum(map(len, found)) for found in runs)),
        Feature.quantity("number", (float(number or "nan") for number in numbers)),
        Feature.kind("last digit", [number[-1:] or "none" for number in numbers]),
        Feature.kind("beginning", [_DIGITS.split(name, maxsplit=1)[0] for name in names]),
    ]


def controlled(member: Bool[np.ndarray, " n"], seed: int) -> Int[np.ndarray, " m"]:
    """The samples of a control, in ascending order: of each side all, or as many as a fit sees, at random."""
    return some_of_each(member, FITTED, np.random.default_rng([seed, 3]))


def control(
    features: Sequence[Feature], member: Bool[np.ndarray, " n"], config: AnalysisConfig, seed: int
) -> BlindControl | None:
    """The combined score's test on plain features, and each of them by itself; None if samples differ in none.

    Args:
        features: of the samples.
        member: who is a member; at least four of each side.
        config: number of halvings, and confidence.
    """
    with warnings.catch_warnings():
        # Of samples that a feature tells apart without exception.
        warnings.simplefilter("ignore", RuntimeWarning)
        tests = [found for feature in features if (found := _telltales(feature, member))]
        shapes = np.concatenate([feature.shapes() for feature in features], axis=1)
        shapes = shapes[:, shapes.min(axis=0) < shapes.max(axis=0)]
        if not tests:
            return None
        chosen = choosing(member, config.repeats, seed)
        odds = cross_fit(shapes, member, chosen, seed)
        inference = infer_dataset(odds, chosen, member)
    corrected = [
        told.model_copy(update={"p_value": min(1.0, len(tests) * told.p_value)}) for found in tests for told in found
    ]
    # Not a number if scores differ between the sides alone: single features say it then.
    together = inference.p_value if np.isfinite(inference.p_value) else 1.0
    return BlindControl(
        features=tuple(feature.name for feature in features),
        auroc=_mean_auroc(odds, chosen, member, config.confidence),
        inference=inference,
        p_value=min(1.0, 2 * min(together, *(told.p_value for told in corrected))),
        told_by=tuple(sorted((told for told in corrected if told.p_value < NAMED), key=lambda told: told.p_value)),
    )


def _mean_auroc(
    odds: Float[np.ndarray, "r n"], chosen: Bool[np.ndarray, "r n"], member: Bool[np.ndarray, " n"], confidence: float
) -> Estimate:
    """AUROC of the reported halves, with the means of DeLong's bounds."""
    found = [delong_estimate(row[~one], member[~one], confidence) for row, one in zip(odds, chosen, strict=True)]
    return Estimate(**{name: float(np.mean([vars(one)[name] for one in found])) for name in Estimate.model_fields})


def _telltales(feature: Feature, member: Bool[np.ndarray, " n"]) -> list[Telltale]:
    """How the sides differ in one feature, with p-values that know of no other; nothing if all samples are alike."""
    return _kinds_apart(feature, member) if feature.kinds else _quantity_apart(feature, member)


def _quantity_apart(feature: Feature, member: Bool[np.ndarray, " n"]) -> list[Telltale]:
    """By the two-sample test of Kolmogorov and Smirnov of the known values, and of how far they lie from the middle."""
    known = np.isfinite(feature.values)
    values, side = feature.values[known], member[known]
    if side.all() or not side.any() or values.min() == values.max():
        return []
    far = np.abs(values - np.median(values))
    tests = [ks_2samp(some[side], some[~side], method="asymp").pvalue for some in (values, far)]
    return [
        Telltale(
            feature=feature.name,
            kind=None,
            members=float(np.median(values[side])),
            heldout=float(np.median(values[~side])),
            auroc=float(aurocs(values[:, None], side)[0]),
            p_value=min(1.0, 2 * float(min(tests))),
        )
    ]


def _kinds_apart(feature: Feature, member: Bool[np.ndarray, " n"]) -> list[Telltale]:
    """By Fisher's exact test of each of the most frequent kinds: the clearest on either side."""
    if len(feature.kinds) < 2:
        return []
    kinds = feature.kinds[:KINDS]
    counts = np.stack(
        [np.bincount(feature.values[side].astype(int), minlength=len(feature.kinds)) for side in (member, ~member)]
    )
    totals = counts.sum(axis=1)
    tested = [
        Telltale(
            feature=feature.name,
            kind=kind,
            members=float(ours / totals[0]),
            heldout=float(theirs / totals[1]),
            auroc=None,
            p_value=min(
                1.0, len(kinds) * fisher_exact([[ours, totals[0] - ours], [theirs, totals[1] - theirs]]).pvalue
            ),
        )
        for kind, (ours, theirs) in zip(kinds, counts.T, strict=False)
    ]
    sides = ([told for told in tested if (told.members > told.heldout) is more] for more in (True, False))
    return [min(side, key=lambda told: told.p_value) for side in sides if side]
