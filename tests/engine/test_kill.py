"""Audits through deaths: of the driver, of its whole machine, of auditors and of a node. The rows are the same."""

import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from ldm_scale.analysis.results import Results
from ldm_scale.config.audit import AuditConfig
from ldm_scale.config.data import PackConfig
from ldm_scale.data.pack import pack
from ldm_scale.engine.audit import run_audit
from ldm_scale.files.ownership import latest_owner
from ldm_scale.files.rundir import RunDirectory
from ldm_scale.files.storage import Location, read_table
from tests.conftest import make_folder
from tests.engine.runs import assert_whole, make_config, raw_rows
from tests.engine.watched import Watched
from tests.inline import inline_ray
from tests.jobs.cluster import clean_environment

# Two auditors; rows are committed as soon as they can be.
QUICK: dict[str, object] = {
    "attacks": {"sima": {"timesteps": [0, 50]}},
    "geometry": {"influence": "hutchinson", "probes": 2, "distortion": "off"},
    "masks": {"bins": 5},
    "compute": {"device": "cpu", "batch_size": 4, "actors": 2, "rows_per_part": 8},
}
# Of the long run.
SAMPLES = 1200
ROOT = Path(__file__).parents[2]


def make_shards(folder: Path, count: int) -> Path:
    source = make_folder(folder / "source", count)
    pack(PackConfig(dataset="folder", source=str(source), out=str(folder / "s"), near_duplicates=0, shard_samples=40))
    return folder / "s"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("kill"), 400)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, shards: Path, tiny_target: Path) -> RunDirectory:
    config = make_config(tmp_path_factory.mktemp("undisturbed") / "run", shards, tiny_target, **QUICK)
    with inline_ray():
        run_audit(config)
    return RunDirectory(Location.of(config.out))


class Driver:
    """`ldm-scale audit` in a process of its own, with a Ray of its own."""

    def __init__(self, config: AuditConfig, folder: Path) -> None:
        self.run, self._folder = RunDirectory(Location.of(config.out)), folder
        self._config = folder / "audit.yaml"
        self._config.write_text(yaml.safe_dump(config.model_dump(mode="json")))
        self._process: subprocess.Popen[str] | None = None
        self._orphans: list[psutil.Process] = []
        self._rows: dict[str, int] = {}

    def start(self) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "tests.engine.driver", self._folder / "computed", "--config", self._config]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, cwd=ROOT, env=clean_environment(), text=True, **pipes)

    def go_on(self) -> None:
        self._process = self.start()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let no auditor compute anything in the block."""
        hold = self._folder / "computed.hold"
        hold.touch()
        yield
        hold.unlink()

    def computed(self) -> Counter[str]:
        """How often the computation of each sample was begun."""
        return Counter((self._folder / "computed").read_text().split())

    def committed(self) -> int:
        for part in self.run.parts():
            if part.uri not in self._rows:
                self._rows[part.uri] = len(read_table(part, ["sample_id"]))
        return sum(self._rows.values())

    def assert_little_was_computed_twice(self, samples: int) -> None:
        counts = self.computed()
        assert len(counts) == samples
        assert counts.total() <= 1.1 * samples

    def wait_for_owner(self) -> None:
        assert self._process is not None
        while latest_owner(self.run.root) is None:
            assert self._process.poll() is None, self._process.communicate()[0]
            time.sleep(0.1)

    def wait_for(self, rows: int) -> None:
        assert self._process is not None
        while self.committed() < rows:
            assert self._process.poll() is None, self._process.communicate()[0]
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill the driver alone; what it started is left to find that out."""
        assert self._process is not None
        self._orphans += psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        self._process.communicate()

    def kill_orphans(self) -> None:
        for process in self._orphans:
            if process.is_running():
                process.kill()
        self._orphans.clear()

    def finish(self) -> str:
        self.go_on()
        assert self._process is not None
        printed = self._process.communicate(timeout=400)[0]
        assert self._process.returncode == 0, printed
        return printed

    def clean_up(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
        self.kill_orphans()


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Callable[[AuditConfig], Driver]]:
    drivers: list[Driver] = []

    def make(config: AuditConfig) -> Driver:
        drivers.append(Driver(config, tmp_path))
        return drivers[-1]

    yield make
    for driver in drivers:
        driver.clean_up()


@pytest.mark.slow
def test_a_run_on_s3_whose_driver_is_killed_goes_on_and_no_other_job_comes_between(
    undisturbed: RunDirectory, shards: Path, tiny_target: Path, bucket: str, drive: Callable[[AuditConfig], Driver]
) -> None:
    config = make_config(Path("unused"), shards, tiny_target, **QUICK).model_copy(update={"out": f"{bucket}/run"})
    driver = drive(config)
    with driver.held():
        driver.go_on()
        driver.wait_for_owner()
        second = driver.start()
        refused = second.communicate()[0].splitlines()[-1]
    assert second.returncode == 2
    assert re.search(r"error: s3://test-.*/run: another job \(.*\) is running here", refused), refused
    driver.wait_for(40)
    driver.kill()
    driver.kill_orphans()
    assert "may be running here; waiting 5 s for a sign of it" in driver.finish()
    assert_whole(driver.run, undisturbed)
    driver.assert_little_was_computed_twice(400)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0])
def test_a_driver_that_is_killed_at_five_random_moments_computes_little_twice(
    seed: int,
    local_ray: None,
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    tiny_target: Path,
    drive: Callable[[AuditConfig], Driver],
) -> None:
    """Between its first commit and its last; its Ray dies a little later, as on a machine that fails."""
    folder = make_shards(tmp_path_factory.mktemp("five"), SAMPLES)
    reference = make_config(tmp_path / "undisturbed", folder, tiny_target, **QUICK)
    run_audit(reference)
    driver = drive(make_config(tmp_path / "run", folder, tiny_target, **QUICK))
    rng = np.random.default_rng(seed)
    for moment in sorted(rng.uniform(0.01, 0.95, 5)):
        driver.go_on()
        driver.wait_for(int(moment * SAMPLES))
        time.sleep(rng.uniform(0, 0.5))
        driver.kill()
        time.sleep(rng.uniform(0, 2))
        driver.kill_orphans()
    driver.finish()
    assert_whole(driver.run, RunDirectory(Location.of(reference.out)))
    driver.assert_little_was_computed_twice(SAMPLES)


def test_auditors_that_are_killed_are_replaced(watched: Watched) -> None:
    """Both, in the middle of what they took in; each sample counts once."""
    assert watched.killed == 2
    assert watched.started > 2
    assert len({key.as_py() for key in raw_rows(watched.run)["sample_id"]}) == 48
    results = Results.model_validate_json((watched.run.root / "results.json").read_bytes())
    assert (results.members, results.heldout, results.expected) == (24, 24, 50)
    assert results.rejected == {"decode: cannot be decoded": 2}


@pytest.mark.slow
def test_a_node_that_is_removed_takes_no_sample_with_it(
    undisturbed: RunDirectory, shards: Path, tiny_target: Path, tmp_path: Path
) -> None:
    config = make_config(tmp_path / "run", shards, tiny_target, **QUICK)
    (tmp_path / "audit.json").write_text(config.model_dump_json())
    command = [sys.executable, "-m", "tests.engine.lose_node", tmp_path / "audit.json"]
    done = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search("a node with 2 auditors is gone", done.stdout), done.stdout
    assert_whole(RunDirectory(Location.of(config.out)), undisturbed)
