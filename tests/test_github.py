"""What a public host reads: the workflow, the changelog and the citation say what the package says."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def job() -> Any:
    return yaml.safe_load((GITHUB / "workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]["test"]


def test_the_workflow_runs_what_a_merge_must_pass_on_every_python(job: Any) -> None:
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    taken = SpecifierSet(PROJECT["requires-python"])
    pythons = job["strategy"]["matrix"]["python"]
    assert pythons == [f"3.{minor}" for minor in range(8, 14) if taken.contains(f"3.{minor}")]


def test_the_workflows_actions_are_pinned_by_their_commits(job: Any) -> None:
    used = [step["uses"] for step in job["steps"] if "uses" in step]
    assert used
    assert all(re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", action) for action in used)


def test_the_changelog_and_the_citation_are_of_this_version() -> None:
    headings = re.findall(r"^## \[(.+)\]$", (GITHUB / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[:2] == ["Unreleased", PROJECT["version"]]
    citation = yaml.safe_load((GITHUB / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
