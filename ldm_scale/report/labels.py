"""Numbers and choices in words, for people to read."""

import math

from ldm_scale.analysis.results import Choice, Estimate, Headline, RowName, ScoredSample, is_trusted

SMALLEST_P = 1e-12
CAPTION_SHOWN = 160
PREFIXES = ("", "k", "M", "G", "T", "P", "E")


def interval_label(estimate: Estimate) -> str:
    """A value with its interval.

    >>> interval_label(Estimate(value=0.5, low=0.4, high=0.6))
    '0.500 (0.400-0.600)'
    """
    return f"{estimate.value:.3f} ({estimate.low:.3f}-{estimate.high:.3f})"


def tpr_label(rate: Estimate, heldout: int) -> str:
    """TPR at 1% FPR with its interval, if it rests on enough of so many held-out samples."""
    return interval_label(rate) if is_trusted(0.01, heldout) else "too few"


def change_label(estimate: Estimate) -> str:
    """A difference with its interval.

    >>> change_label(Estimate(value=0.1, low=-0.1, high=0.3))
    '+0.100 (-0.100 to +0.300)'
    """
    return f"{estimate.value:+.3f} ({estimate.low:+.3f} to {estimate.high:+.3f})"


def share_label(share: float) -> str:
    """A share in percent, to three digits at most.

    >>> share_label(0.4), share_label(0.125)
    ('40%', '12.5%')
    """
    return f"{100 * share:.3g}%"


def count_label(count: float) -> str:
    """How many there are, or are on average: in full, and a fraction to five digits.

    >>> count_label(262_144), count_label(40.5)
    ('262,144', '40.5')
    """
    return f"{count:,.0f}" if count >= 10_000 else f"{count:,.5g}"


def row_label(headline: Headline) -> str:
    """What a headline row leaves out, in words."""
    if headline.row == "chosen":
        return f"chosen: {_dropped(headline.heldout_choice)}"
    return cut_label(headline.row, headline.heldout_choice.drop)


def cut_label(row: RowName, drop: float) -> str:
    """A row whose drop share is not chosen, in words.

    >>> cut_label("plain", 0.4), cut_label("lowest", 0.4), cut_label("global", 0.4)
    ('plain', 'lowest 40% dropped', 'global lowest 40%')
    """
    share = share_label(drop)
    words = {"plain": "plain", "global": f"global lowest {share}", "geometry": "geometry-adjusted"}
    return words.get(row, f"{row} {share} dropped")


def _dropped(choice: Choice) -> str:
    return "nothing" if choice.mask == "none" else f"{choice.mask} {share_label(choice.drop)}"


def step_label(timestep: int | None) -> str:
    """A timestep, or that it is the mean over all."""
    return "all" if timestep is None else str(timestep)


def at_step(timestep: int | None) -> str:
    """The same with its name, e.g. "t 60"."""
    return "all t" if timestep is None else f"t {timestep}"


def choice_label(choice: Choice) -> str:
    """A choice in short: the timestep, and what is dropped if anything is."""
    return at_step(choice.timestep) + ("" if choice.mask == "none" else f", {_dropped(choice)}")


def p_label(p: float) -> str:
    """A p-value; below SMALLEST_P only that it is smaller, as the test's tails carry no more."""
    return f"p < {SMALLEST_P:g}" if p < SMALLEST_P else f"p = {p:.2g}"


def shortened(text: str) -> str:
    """A caption, cut if it is long."""
    return text if len(text) <= CAPTION_SHOWN else text[: CAPTION_SHOWN - 1] + "\u2026"


def above_label(sample: ScoredSample, heldout: int) -> str:
    """How many held-out images score higher, and what share of such images that may be.

    >>> above_label(ScoredSample(sample_id="a", attack="sima", score=1.0, heldout_above=0, bound=0.0198), 150)
    '0 of 150 held-out above (below 2% at 95%)'
    """
    return f"{sample.heldout_above:,} of {heldout:,} held-out above (below {100 * sample.bound:.2g}% at 95%)"


def three_digits(value: float) -> str:
    """A number to three digits.

    >>> three_digits(12345.0)
    '12,300'
    """
    return f"{float(f'{value:.3g}'):,.12g}"


def scaled(value: float, unit: str) -> str:
    """A quantity with three digits and a prefix.

    >>> scaled(2.514e12, "FLOP")
    '2.51 TFLOP'
    """
    step = min(max(0, math.floor(math.log10(value) / 3)), len(PREFIXES) - 1) if value > 0 else 0
    # Three digits of 999.7 are 1000 of the same prefix.
    if step + 1 < len(PREFIXES) and float(f"{value / 1000**step:.3g}") >= 1000:
        step += 1
    return f"{value / 1000**step:.3g} {PREFIXES[step]}{unit}"


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(11520)
    '3 h 12 min'
    """
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
