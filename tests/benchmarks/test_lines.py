"""Lines: their ratio, the one table and the JSON document."""

import json

import pytest

from ldm_scale.benchmarks.lines import SECONDS, Line, encode, number, show
from ldm_scale.benchmarks.machine import describe_machine, describe_versions

LINES = [
    Line(
        "audit", "ours", 0.5, SECONDS, share=1.0, bound=0.4, note="a note that is long enough for the last column " * 3
    ),
    Line("audit", "ours is faster by", 8.25, "times"),
    Line("reduce", "reduction", 12345.6, "rows/s"),
]


def test_the_ratio_is_to_the_bound_where_there_is_one() -> None:
    assert LINES[0].ratio == pytest.approx(1.25)
    assert LINES[1].ratio is None
    assert "1.25 times the bound of 0.4" in str(LINES[0])


def test_the_table_fits_and_has_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    show(LINES)
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert max(map(len, printed.splitlines())) <= 120
    for line in LINES:
        (row,) = [row for row in printed.splitlines() if line.what + " " * 2 in row]
        assert number(line.value) in row
    assert [row.split()[0] for row in printed.splitlines() if row[:1].isalpha()] == ["part", "audit", "reduce"]


def test_the_document_has_machine_versions_and_lines() -> None:
    document = json.loads(encode(LINES, describe_machine(), describe_versions()))
    assert set(document) == {"machine", "versions", "lines"}
    assert set(document["machine"]) == {"cpu", "cores", "threads", "memory", "system", "gpus"}
    assert set(document["versions"]) == {"python", "torch", "ray", "diffusers", "numpy", "pyarrow", "ldm_scale"}
    assert [(line["value"], line["ratio"]) for line in document["lines"]] == [
        (0.5, 1.25),
        (8.25, None),
        (12345.6, None),
    ]


def test_numbers_are_short() -> None:
    assert [number(value) for value in (None, 0.012345, 12.345, 1234.5)] == ["", "0.0123", "12.3", "1,234"]
