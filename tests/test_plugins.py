"""What another package adds: `tests/plugins/`, installed beside ldm_scale as pip would."""

import json
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

from ldm_scale.cli import main
from ldm_scale.engine.actor import load_auditor
from ldm_scale.errors import RunError, UsageError
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location
from ldm_scale.schema import row_schema
from tests.conftest import make_folder
from tests.targets import tiny

PLUGINS = Path(__file__).parent / "plugins"
MODULES = ("attack", "estimator", "family", "source")
# Installs the package of a site folder in a version.
Install = Callable[..., Path]
OPTIONS = ("--attacks", "residual", "--attacks.residual.timesteps", "0,5", "--geometry.influence", "gradient")
BRIEF = ("--geometry.distortion", "off", "--analysis.bootstrap", "1", "--max-reject-fraction", "0.5")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put the package, or another one with its files, in a folder of Python's path."""

    def made(name: str = "acme-audit", version: str = "1.0") -> Path:
        site = tmp_path / name
        info = site / f"{name.replace('-', '_')}.dist-info"
        if not site.exists():
            shutil.copytree(PLUGINS / "acme", site / "acme")
            info.mkdir()
            groups = tomllib.loads((PLUGINS / "pyproject.toml").read_text())["project"]["entry-points"]
            lines = [
                line
                for group, points in groups.items()
                for line in (f"[{group}]", *(f"{key} = {value}" for key, value in points.items()))
            ]
            (info / "entry_points.txt").write_text("\n".join(lines))
            monkeypatch.syspath_prepend(site)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        return site

    yield made
    for module in [module for module in sys.modules if module.partition(".")[0] == "acme"]:
        del sys.modules[module]


@pytest.fixture
def audit(tmp_path: Path, install: Install, inline: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Pack by the package's source, and audit by its attack and estimator a target of its family."""

    # A target of the same weights may be of another module.
    monkeypatch.setattr("tests.inline._loaded", {})

    def run() -> int:
        if not (tmp_path / "shards").exists():
            pictures = make_folder(tmp_path / "pictures", 40)
            lines = [f"{path.relative_to(pictures)}\tcaption" for path in sorted(pictures.rglob("*.png"))]
            (pictures / "index.tsv").write_text("\n".join(lines))
            if status := main(["pack", "tsv", str(pictures), str(tmp_path / "shards"), "--near-duplicates", "0"]):
                return status
        target = tmp_path / "target"
        if not target.exists():
            shutil.copytree(tiny.vq_ldm(tmp_path / "plain"), target)
            side = json.loads((target / "unet" / "config.json").read_text())["sample_size"]
            shutil.rmtree(target / "unet")
            import_module("acme.family").AcmeNet(side).save_pretrained(target / "transformer")
        places = ("--shards", tmp_path / "shards", "--target", target, "--out", tmp_path / "run")
        try:
            return main(["audit", *map(str, places), *OPTIONS, *BRIEF])
        except SystemExit as ended:
            return int(ended.code or 0)

    return run


def test_a_package_adds_source_family_attack_and_estimator(
    tmp_path: Path, install: Install, audit: Callable[[], int], capsys: pytest.CaptureFixture[str]
) -> None:
    for module in MODULES:
        assert len((PLUGINS / "acme" / f"{module}.py").read_text().splitlines()) < 30
    install()
    assert audit() == 0
    science = json.loads((tmp_path / "run" / "run.json").read_text())["science"]
    assert science["packages"] == {"attacks.residual": "acme-audit 1.0", "estimators.gradient": "acme-audit 1.0"}
    assert science["family"] == "acme-audit 1.0"
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {row["attack"] for row in results["headline"]} == {"residual"}
    assert "acme-audit 1.0" in (tmp_path / "run" / "report.html").read_text()
    # Another version is another run.
    install(version="1.1")
    capsys.readouterr()
    assert audit() == 2
    (line,) = capsys.readouterr().err.splitlines()
    for name in ("family", "packages.attacks.residual", "packages.estimators.gradient"):
        assert f'{name} was "acme-audit 1.0", is now "acme-audit 1.1"' in line
    # So it is on a node that has another one.
    with pytest.raises(
        RunError, match=r"are \{.*acme-audit 1\.1.*\} on this node; the run began with \{.*acme-audit 1\.0"
    ):
        load_auditor(RunDirectory(Location.of(str(tmp_path / "run"))).read_record(), "cpu")


@pytest.mark.parametrize(
    ("what", "name"),
    [("attacks", "residual"), ("estimators", "gradient"), ("families", "AcmeNet"), ("sources", "tsv")],
)
def test_what_a_package_adds_is_listed_with_it(
    what: str, name: str, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install()
    assert main(["list", what]) == 0
    theirs = [line.split()[0] for line in capsys.readouterr().out.splitlines() if "acme-audit 1.0" in line]
    assert theirs == [name]


@pytest.mark.parametrize(
    ("module", "old", "new", "said"),
    [
        ("attack", "import torch\n", "import tortch\n", "No module named 'tortch'"),
        ("attack", "def vectors", "def vector", "is no dataclass with evaluated, p, timesteps, vectors"),
        (
            "attack",
            "        noises =",
            "        raise ValueError('odd')\n        noises =",
            "ValueError in acme.attack.vectors",
        ),
        ("attack", "torch.stack(", "torch.cat(", "gives vectors ("),
        ("attack", "return torch.stack(", "return 0 / 0 * torch.stack(", "ZeroDivisionError in acme.attack.vectors"),
        (
            "attack",
            "return torch.stack(",
            "return torch.nan * torch.stack(",
            "number of residual of acme-audit 1.0 is not",
        ),
        ("estimator", "import torch\n", "import tortch\n", "No module named 'tortch'"),
        ("estimator", "def gradient(", "gradient = 3\n\ndef other(", "is no function"),
        ("estimator", ".flatten(1)", ".flatten(2)", "influences, not ("),
        ("estimator", "return found.abs().flatten(1)", "return", "gives () influences"),
        (
            "estimator",
            "return found",
            "return torch.nan * found",
            "number of influence of acme-audit 1.0 is not",
        ),
        ("estimator", "    z = ", "    raise ValueError('odd')\n    z = ", "ValueError in acme.estimator.gradient"),
        ("family", "FAMILY = Family(AcmeNet, AcmeTarget)", "FAMILY = AcmeTarget", "is no Family"),
        ("family", "return self._denoiser.layer(z)", "return None.layer", "AttributeError in acme.family._denoise"),
        ("source", "from ldm_scale.files", "from ldm_scale.file", "No module named 'ldm_scale.file'"),
        ("source", '"\\t"', '";"', "ValueError in acme.source.read_tsv"),
    ],
)
def test_a_package_that_is_broken_is_named_in_one_line(
    module: str,
    old: str,
    new: str,
    said: str,
    install: Install,
    audit: Callable[[], int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = install() / "acme" / f"{module}.py"
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))
    assert audit() in (1, 2)
    line = capsys.readouterr().err.splitlines()[-1]
    assert said in line, line
    assert "acme-audit 1.0" in line


@pytest.mark.parametrize(
    ("group", "name", "words"),
    [
        ("attacks", "sima", "audit --out run"),
        ("estimators", "exact", "audit --out run --geometry.influence exact"),
        ("sources", "folder", "pack folder here there"),
    ],
)
def test_a_name_that_is_taken_is_refused(
    group: str, name: str, words: str, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    points = next(install().glob("*.dist-info")) / "entry_points.txt"
    points.write_text(f"[ldm_scale.{group}]\n{name} = acme.attack:Residual\n")
    assert main(words.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"entry point {name} of ldm_scale.{group} (acme-audit 1.0)" in line


@pytest.mark.parametrize("names", [("leakage",), ("sima", "sima_random")])
def test_an_attack_that_has_the_name_of_a_column_is_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=f"^attack {names[-1]}: rows have a column {names[-1]} already"):
        row_schema(4, dict.fromkeys(names, 1), 2, {}, one_ranking=False)


def test_two_packages_with_one_name_are_named(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install()
    install("other-audit")
    assert main(["audit", "--out", "run", "--attacks", "residual"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "acme-audit 1.0" in line
    assert "other-audit 1.0" in line
