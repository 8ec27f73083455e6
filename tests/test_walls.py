"""Who may import what: the walls between the rooms."""

import ast
from pathlib import Path

import ldm_scale

PACKAGE = Path(ldm_scale.__file__).parent
ROOT = PACKAGE.parent
MATHS = ("geometry", "attacks")
# What a pure tensor function has no use for.
OUTSIDE = {
    "ray",
    "diffusers",
    "transformers",
    "os",
    "pathlib",
    "io",
    "tempfile",
    "shutil",
    "pyarrow",
    "boto3",
    "tarfile",
}
OUTSIDE_OURS = {"ldm_scale.storage", "ldm_scale.rundir", "ldm_scale.data", "ldm_scale.targets", "ldm_scale.engine"}


def imports(path: Path) -> set[str]:
    """Every module a file imports, at any depth of nesting."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def offenders(paths: list[Path], forbidden: set[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in paths
        for name in imports(path)
        if any(name == module or name.startswith(module + ".") for module in forbidden)
    ]


def test_only_engine_imports_ray() -> None:
    outside = [path for path in PACKAGE.rglob("*.py") if "engine" not in path.relative_to(PACKAGE).parts]
    assert len(outside) > 20
    assert offenders(outside, {"ray"}) == []


def test_only_the_command_line_and_jobs_import_the_engine() -> None:
    outside = [
        path
        for path in PACKAGE.rglob("*.py")
        if "engine" not in path.relative_to(PACKAGE).parts and path != PACKAGE / "cli.py"
    ]
    assert offenders(outside, {"ldm_scale.engine"}) == []


def test_geometry_and_attacks_know_no_files_no_ray_no_diffusers() -> None:
    paths = [path for room in MATHS for path in (PACKAGE / room).rglob("*.py")]
    assert len(paths) > 5
    assert offenders(paths, OUTSIDE | OUTSIDE_OURS) == []


def test_the_auditor_and_what_it_costs_know_no_files_and_no_ray() -> None:
    forbidden = {
        "ray",
        "diffusers",
        "pyarrow",
        "pathlib",
        "os",
        "ldm_scale.storage",
        "ldm_scale.rundir",
        "ldm_scale.data",
    }
    paths = [PACKAGE / f"{name}.py" for name in ("auditor", "costs", "estimate", "flops")]
    assert offenders(paths, forbidden) == []


def test_analysis_needs_no_model_and_no_gpu() -> None:
    assert offenders(list((PACKAGE / "analysis").rglob("*.py")), {"torch", "diffusers", "ray"}) == []


def test_an_import_inside_a_function_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("def f():\n    from ray.data import Dataset\n")
    assert "ray.data" in imports(path)
