"""Sizes, integers and fractions as people write them."""

import pytest
from pydantic import TypeAdapter, ValidationError

from ldm_scale.config.audit import GeometryConfig
from ldm_scale.config.base import build
from ldm_scale.config.train import TrainConfig
from ldm_scale.config.values import Bytes, parse_fractions, parse_integers, parse_span, spell_integers
from ldm_scale.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("512MiB", 512 * 1024 * 1024),
        ("4 GiB", 4 * 1024**3),
        ("1.5kb", 1500),
        ("2GB", 2_000_000_000),
        ("3 MB ", 3_000_000),
        ("64kib", 65536),
        ("1024", 1024),
        (1024, 1024),
        (2.0**30, 2**30),
    ],
)
def test_sizes_are_bytes(text: object, expected: int) -> None:
    assert TypeAdapter(Bytes).validate_python(text) == expected


@pytest.mark.parametrize(
    "text", ["", "lots", "5 potatoes", "-3MB", "1.2.3MB", "1,5GiB", "8GiB/s", "MB", ".", "1e3", None, True]
)
def test_what_is_no_size_is_named(text: object) -> None:
    with pytest.raises(ValidationError, match=r"is not a size|byte unit"):
        TypeAdapter(Bytes).validate_python(text)


def test_a_size_is_recorded_as_a_plain_number() -> None:
    memory = build(GeometryConfig, {"memory": "1MiB"}).model_dump(mode="json")["memory"]
    assert (memory, type(memory)) == (2**20, int)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0,10,20", (0, 10, 20)),
        ("7", (7,)),
        (" 1, 2 ", (1, 2)),
        ("0:200:50", (0, 50, 100, 150)),
        ("3:6", (3, 4, 5)),
        ("6:0:-2", (6, 4, 2)),
        ("5:5", ()),
        ([1, 2], [1, 2]),
        ((3,), (3,)),
    ],
)
def test_integers_are_lists_or_ranges(text: object, expected: object) -> None:
    assert parse_integers(text) == expected


@pytest.mark.parametrize(
    "text", ["0:40:10", "0:30:10", "5", "64,128,128", "64,64,64,64", "6,4,2,0", "1,2,4,8", "3:7:1"]
)
def test_integers_are_spelled_so_that_they_are_read_again(text: str) -> None:
    numbers = parse_integers(text)
    assert parse_integers(spell_integers(numbers)) == numbers
    assert len(spell_integers(numbers)) <= max(len(text), len("0,10,20"))


@pytest.mark.parametrize("text", ["", "a", "1,,2", "1.5", "0:10:0", "1:", "1:2:3:4", "::", "0:99999999999999999999"])
def test_what_is_no_list_of_integers_is_a_usage_error_of_one_line(text: str) -> None:
    with pytest.raises(UsageError, match=r"^denoiser.channels: ") as caught:
        build(TrainConfig, {"shards": "s", "out": "o", "denoiser": {"channels": text}})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"), [("0.95, 0.9", (0.95, 0.9)), ("1", (1.0,)), ("5e-1", (0.5,)), ([0.5, 1], [0.5, 1])]
)
def test_fractions_are_lists(text: object, expected: object) -> None:
    assert parse_fractions(text) == expected


@pytest.mark.parametrize("text", ["", "a", "0.9,,0.8", "0:1"])
def test_what_is_no_list_of_fractions_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="could not convert"):
        parse_fractions(text)


def test_configurations_take_both_spellings() -> None:
    assert build(GeometryConfig, {"memory": "1MiB"}).memory == 2**20
    train = build(TrainConfig, {"shards": "s", "out": "o", "denoiser": {"channels": "8,16"}})
    assert train.denoiser.channels == (8, 16)
    with pytest.raises(UsageError, match=r"^memory: 'much' is not a size such as 512MiB"):
        build(GeometryConfig, {"memory": "much"})


@pytest.mark.parametrize(
    ("text", "expected"), [("0..64", (0, 64)), (" 2..8 ", (2, 8)), ("8", (0, 8)), (8, (0, 8)), ([2, 8], [2, 8])]
)
def test_spans_are_at_least_and_at_most(text: object, expected: object) -> None:
    assert parse_span(text) == expected


@pytest.mark.parametrize("text", ["", "a", "1..", "..2", "-1..2", "1.5", "1...2", None])
def test_what_is_no_span_is_named(text: object) -> None:
    with pytest.raises(ValueError, match="is not a span"):
        parse_span(text)
