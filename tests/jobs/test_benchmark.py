"""The benchmark's job: its parts by name, one table and one JSON document, on little of everything."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.jobs.cluster import clean_environment
from tests.jobs.conftest import ROOT


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "jobs/benchmark.py", *flags]
    return subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=300)


@pytest.mark.xdist_group("ray")
def test_the_parts_asked_for_are_one_table_and_one_document(tmp_path: Path) -> None:
    numbers, little = tmp_path / "numbers.json", ("--reduce.rows", "200", "--reduce.analysis.bootstrap", "20")
    done = run("--parts", "reduce", *little, "--json", str(numbers))
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(numbers.read_bytes())
    assert {line["part"] for line in document["lines"]} == {"reduce"}
    assert document["machine"]["cores"] >= 1
    assert "torch" in document["versions"]
    *_, heading, first = (line for line in done.stdout.splitlines() if line.startswith(("part ", "reduce ")))
    assert heading.split() == ["part", "what", "value", "unit", "share", "bound", "ratio", "note"]
    assert document["lines"][0]["what"].split()[0] in first


def test_an_unknown_part_is_refused() -> None:
    done = run("--parts", "reduced")
    assert done.returncode == 2
    assert "did you mean 'reduce'?" in done.stderr
