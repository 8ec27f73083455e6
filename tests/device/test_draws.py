"""Draws are Philox's, keyed by seed, sample and purpose, and have the law that they should, wherever they are made."""

from collections.abc import Callable
from math import comb

import numpy as np
import pytest
import torch
from scipy.fft import irfft, next_fast_len, rfft
from scipy.special import ndtr
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ldm_scale.device import draws
from ldm_scale.device.draws import keyed_normal, keyed_words, philox, quantiles
from ldm_scale.randomness import keyed_digest

CPU = torch.device("cpu")
SHAPE = (4, 8, 8)
IDS = [f"members-{shard:06d}/{key:04d}" for shard in range(4) for key in range(50)]
LOWER, UPPER = ((weight * quantiles()).astype(np.float32) for weight in (0.6, 0.8))


def unsigned(words: Tensor) -> list[int]:
    return [word % 2**32 for word in words.flatten().tolist()]


def philox_of_integers(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 as published, in Python's integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c[0], 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c[2], 2**32)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


# Random123's kat_vectors: counter, key, output.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(counter: str, key: str, answer: str) -> None:
    c, k, expected = ([int(word, 16) for word in words.split()] for words in (counter, key, answer))
    assert philox_of_integers(c, k) == expected
    c0, c1, c2, c3, k0, k1 = (torch.tensor([word]) for word in c + k)
    assert unsigned(philox((c0, c1, c2, c3), (k0, k1))) == expected


def test_words_are_philox_keyed_by_the_digest() -> None:
    """In order of blocks, whatever the count; those of one sample are not those of another."""
    found = keyed_words(7, IDS[:3], "mask", 4099, CPU)
    for sample_id, words in zip(IDS[:3], found, strict=True):
        digest = np.frombuffer(keyed_digest(7, sample_id, "mask"), "<u4").tolist()
        expected = [word for b in range(1025) for word in philox_of_integers([b, 0, *digest[2:]], digest[:2])]
        assert unsigned(words) == expected[:4099]


def test_normal_draws_are_two_quantiles_of_a_word() -> None:
    words = keyed_words(7, IDS[:3], "noise", 1001, CPU).numpy().view(np.uint32)
    expected = LOWER[words % 2**16] + UPPER[words // 2**16]
    np.testing.assert_array_equal(keyed_normal(7, IDS[:3], "noise", (7, 11, 13), CPU).reshape(3, -1), expected)


def test_draws_depend_on_neither_batch_nor_order_nor_the_size_of_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = keyed_normal(0, IDS[:7], "noise", SHAPE, CPU)
    words = keyed_words(0, IDS[:7], "mask", 55, CPU)
    assert whole.dtype == torch.float32
    assert whole.shape == (7, *SHAPE)
    for blocks in (1, 9, 24):
        monkeypatch.setitem(draws.BLOCKS, "cpu", blocks)
        for order in ([3], [6, 0, 5, 1], list(range(7))):
            some = [IDS[i] for i in order]
            assert torch.equal(keyed_normal(0, some, "noise", SHAPE, CPU), whole[order])
            assert torch.equal(keyed_words(0, some, "mask", 55, CPU), words[order])


def test_known_draws_stay_as_they_are() -> None:
    # A change here changes every run that was ever made: give DRAWS another name.
    assert keyed_normal(0, ["members-000000/a"], "probes", (3,), CPU).tolist() == [
        [0.3596688508987427, 0.1060798168182373, -0.12302269041538239]
    ]
    assert keyed_words(0, ["members-000000/a"], "random mask", 3, CPU).tolist() == [
        [-1568712448, -332742011, -1984955951]
    ]
    assert draws.DRAWS == "philox4x32-10, 0.6 Q + 0.8 Q"


def test_seed_sample_and_purpose_each_make_another_draw() -> None:
    keys = [(0, "a/b", "noise"), (1, "a/b", "noise"), (0, "a/c", "noise"), (0, "a/b", "probes"), (0, "a/b ", "noise")]
    found = np.stack([keyed_normal(seed, [name], purpose, (1024,), CPU)[0] for seed, name, purpose in keys])
    # Independent draws of 1,024 correlate with standard deviation 1/32; four of them for the largest of ten pairs.
    assert np.abs(np.corrcoef(found) - np.eye(len(keys))).max() < 4 / 32


def test_draws_of_other_samples_and_of_other_places_are_independent() -> None:
    found = keyed_normal(0, IDS, "noise", (500,), CPU).double()
    for values in (found, found.square() - 1):
        scale = values.square().mean()
        lags = torch.stack([(values[:, :-lag] * values[:, lag:]).mean() / scale for lag in range(1, 9)])
        neighbours = (values[:-1] * values[1:]).mean() / scale
        # Means of about 100,000 products; four standard errors each.
        assert torch.cat([lags, neighbours[None]]).abs().max() < 4 / 99_000**0.5


def test_draws_have_the_moments_of_a_standard_normal() -> None:
    values = keyed_normal(0, IDS, "noise", (500,), CPU).double().numpy()
    count = values.size
    # Four standard errors of the mean, variance, skewness and kurtosis of 100,000 normal draws.
    assert values.mean() == pytest.approx(0, abs=4 / count**0.5)
    assert values.var() == pytest.approx(1, abs=4 * (2 / count) ** 0.5)
    assert (values**3).mean() == pytest.approx(0, abs=4 * (15 / count) ** 0.5)
    assert (values**4).mean() == pytest.approx(3, abs=4 * (96 / count) ** 0.5)
    # Across samples each position is normal too: the means of 200 have variance 1/200 (relative error 2/sqrt(1000)).
    assert values.mean(0).var() == pytest.approx(1 / len(IDS), rel=4 * (2 / 500) ** 0.5)


def test_each_bit_of_a_word_is_a_fair_coin() -> None:
    words = keyed_words(0, IDS, "mask", 500, CPU).numpy()
    shares = [(words >> bit & 1).mean() for bit in range(32)]
    # Four standard errors of 100,000 tosses.
    np.testing.assert_allclose(shares, 0.5, atol=4 * 0.5 / words.size**0.5)


def test_the_quantiles_are_symmetric_of_unit_variance_and_ascending() -> None:
    q = quantiles()
    np.testing.assert_array_equal(q, -q[::-1])
    assert (np.diff(q) > 0).all()
    assert np.square(q).mean() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(ndtr(q[1:-1]), (np.arange(1, 2**16 - 1) + 0.5) / 2**16, rtol=1e-12)


def test_the_moments_of_the_law_to_order_eight() -> None:
    """In closed form from all 2^32 words: a binomial sum of the moments of the two halves."""
    low, high = ([np.mean(table.astype(float) ** k) for k in range(9)] for table in (LOWER, UPPER))
    moments = [sum(comb(k, j) * low[j] * high[k - j] for j in range(k + 1)) for k in range(9)]
    np.testing.assert_allclose(moments[1::2], 0, atol=1e-12)
    assert moments[2] == pytest.approx(1, abs=1e-9)
    departures = [moments[k] / normal - 1 for k, normal in {4: 3, 6: 15, 8: 105}.items()]
    assert departures == pytest.approx([-1.84e-5, -1.55e-4, -7.05e-4], rel=0.01)


def distribution(x: float) -> float:
    """P(draw <= x), from all 2^32 words."""
    return np.searchsorted(UPPER.astype(float), x - LOWER.astype(float), side="right").mean() / 2**16


def test_the_law_at_points_and_its_tails() -> None:
    points = np.concatenate([np.linspace(-4, 4, 60), np.linspace(-1e-4, 1e-4, 21)])
    assert max(abs(distribution(x) - ndtr(x)) for x in points) < 2e-7
    assert [distribution(-x) / ndtr(-x) - 1 for x in (4, 5)] == pytest.approx([-0.0031, -0.137], rel=0.02)
    assert LOWER[-1] + UPPER[-1] < 6.17


def test_the_kolmogorov_distance_to_the_normal_law() -> None:
    """A bound over all x: halves rounded down to a lattice, whose sum's law is a convolution."""
    step = 2.0**-18
    counts, lowest = [], 0
    for table in (LOWER, UPPER):
        places = np.floor(table / step).astype(int)
        lowest += places.min()
        counts.append(np.bincount(places - places.min()))
    size = next_fast_len(sum(map(len, counts)), real=True)
    product = rfft(counts[0], size) * rfft(counts[1], size)
    below = np.cumsum(np.rint(irfft(product, size))) / 2**32
    assert below[-1] == 1
    x = (np.arange(size) + lowest) * step
    # A draw lies at most two steps above its rounded sum, and float32 rounds it by at most 2^-22, where the normal
    # law gains at most 0.4 * 2^-22.
    above, beneath = (below - ndtr(x)).max(), (ndtr(x + 3 * step) - below).max()
    assert max(above, beneath) + 0.4 * 2**-22 < 2.5e-6


class Traffic(TorchDispatchMode):
    """Bytes that operations read and write, as if no cache kept any; which make floats; the most bytes one makes.

    A look-up counts as a sector of 32 bytes, views as nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.floats: set[str] = set()
        self.largest = 0

    def __torch_dispatch__(
        self, op: torch._ops.OpOverload, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> Tensor:
        result = op(*args, **(kwargs or {}))
        if any(value.alias_info and not value.alias_info.is_write for value in op._schema.returns):
            return result
        name = op.overloadpacket.__name__
        moved = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        if name == "index_select":
            moved.remove(args[0])
            self.bytes += 32 * result.numel()
        self.bytes += sum(tensor.nbytes for tensor in moved)
        if name != "empty":
            self.largest = max(self.largest, result.nbytes)
        if result.is_floating_point():
            self.floats.add(name)
        return result


def traffic(make: Callable[[], object]) -> Traffic:
    make()
    with Traffic() as counted:
        make()
    return counted


def test_the_only_arithmetic_on_floats_is_one_addition() -> None:
    """So that no device can round in its own way."""
    assert traffic(lambda: keyed_normal(0, IDS[:2], "noise", SHAPE, CPU)).floats == {"empty", "index_select", "add"}


def test_the_traffic_of_an_addition() -> None:
    a = torch.ones(10)
    assert traffic(lambda: a.view(2, 5) + 1).bytes == 80
    assert traffic(lambda: a.index_select(0, torch.tensor([3, 4, 4]))).bytes == 3 * (32 + 8 + 4)


def test_scratch_memory_is_bounded_whatever_the_draws() -> None:
    """As a GPU would be asked: no array but the draws themselves is larger than the words of a piece."""
    meta = torch.device("meta")
    for n, count in ((200, 10**5), (1, 10**8)):
        assert traffic(lambda n=n, count=count: keyed_normal(0, IDS[:n], "noise", (count,), meta)).largest <= 2**24


@pytest.mark.parametrize("evaluations", [80, 20])
def test_draws_take_at_most_a_twentieth_of_a_large_samples_time(evaluations: int) -> None:
    """Stable Diffusion at 512 px with 8 probes, and 20 noises for four attacks or for one, on an H100.

    The draws' traffic at its 3.35 TB/s against the counted arithmetic of products and evaluations at its dense bf16
    peak, which is the strict side: no model reaches it, and the products are in float32.
    """

    def sample() -> None:
        keyed_normal(0, IDS[:1], "probes", (8, 3, 512, 512), CPU)
        for t in range(20):
            keyed_normal(0, IDS[:1], f"noise {t}", (4, 64, 64), CPU)

    arithmetic = (8 * 2.515e12 + evaluations * 0.803e12) / 989e12
    assert traffic(sample).bytes / 3.35e12 < 0.05 * arithmetic
