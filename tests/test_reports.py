"""REPORTS.md: each public report once, and the test that holds its case."""

import re
from pathlib import Path

HERE = Path(__file__).parent
ROW = re.compile(r"^\| ([\w.-]+/[\w.-]+) \| (\d+) \| [^|]+ \| ([^|]+) \| `([^`]+)::([^`]+)` \|$", re.MULTILINE)


def test_each_report_is_held_by_a_test_that_there_is() -> None:
    text = (HERE / "REPORTS.md").read_text(encoding="utf-8")
    rows = ROW.findall(text)
    assert len(rows) == len({row[:2] for row in rows}) == text.count("\n| ") - 1
    for *_, file, name in rows:
        assert f"\ndef {name}(" in (HERE / file).read_text(encoding="utf-8"), f"{file}::{name}"
    said = re.search(r"(\d+) of (\d+); all are mended", text)
    assert said
    assert [*map(int, said.groups())] == [sum("**failed**" in row[2] for row in rows), len(rows)]
