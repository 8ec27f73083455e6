"""The benchmark's job: its parts by name, one table and one JSON document, on little of everything."""

import json
import runpy
from pathlib import Path

import pytest

from ldm_scale.cli import run_benchmarks
from tests.jobs.conftest import ROOT


def run(*flags: str) -> int:
    job = runpy.run_path(str(ROOT / "jobs/benchmark.py"))
    return run_benchmarks(job["__doc__"], job["RECIPE"], flags)


@pytest.mark.usefixtures("inline")
def test_the_parts_asked_for_are_one_table_and_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers, little = tmp_path / "numbers.json", ("--reduce.rows", "200", "--reduce.analysis.bootstrap", "20")
    assert run("--parts", "reduce", *little, "--json", str(numbers)) == 0
    printed = capsys.readouterr().out
    document = json.loads(numbers.read_bytes())
    assert {line["part"] for line in document["lines"]} == {"reduce"}
    assert document["machine"]["cores"] >= 1
    assert "torch" in document["versions"]
    *_, heading, first = (line for line in printed.splitlines() if line.startswith(("part ", "reduce ")))
    assert heading.split() == ["part", "what", "value", "unit", "share", "bound", "ratio", "note"]
    assert document["lines"][0]["what"].split()[0] in first


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--parts", "reduced") == 2
    assert "did you mean 'reduce'?" in capsys.readouterr().err
