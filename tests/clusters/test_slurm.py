"""A Ray on a Slurm allocation: what the script asks of Slurm and of Ray, which are pretended here."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "clusters" / "slurm.sh"
# Runs the command after its options on as many "nodes" as it is asked for, one after the other.
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do [[ $1 == --ntasks=* ]] && tasks=${1#*=}; shift; done
for ((node = 0; node < tasks; node++)); do "$@" || exit; done
"""
RAY = """#!/usr/bin/env bash
printf '%s\\n' "$RAY_AUTH_MODE ${#RAY_AUTH_TOKEN} $*"
while [[ $1 != -- ]]; do shift; done
shift
exec "$@"
"""
FAKES = {
    "srun": SRUN,
    "ray": RAY,
    "hostname": "#!/bin/sh\necho '10.0.0.7 172.17.0.1 '\n",
    "scontrol": "#!/bin/sh\necho node7; echo node8\n",
}


@pytest.fixture
def allocation(tmp_path: Path) -> dict[str, str]:
    """The environment of an allocation of two nodes."""
    for name, text in FAKES.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    slurm = {"JOB_ID": "123456", "JOB_NODELIST": "node[7-8]", "JOB_NUM_NODES": "2", "CPUS_ON_NODE": "16"}
    return {"PATH": path} | {f"SLURM_{name}": value for name, value in slurm.items()}


def call(*words: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCRIPT, *words], env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_a_command_runs_on_the_ray_of_all_nodes(allocation: dict[str, str]) -> None:
    done = call("bash", "-c", 'echo "$RAY_ADDRESS of $0"; exit 3', "two words", environment=allocation)
    # The command's own exit status.
    assert done.returncode == 3, done.stderr
    started, said = done.stdout.splitlines()
    assert re.match(
        r"token 64 symmetric-run --address 10\.0\.0\.7:23456 --min-nodes 2 --num-cpus 16 -- env RAY_ADDRESS=10", started
    )
    assert said == "10.0.0.7:23456 of two words"


def test_each_job_has_a_token_of_its_own(allocation: dict[str, str]) -> None:
    calls = [call("bash", "-c", 'echo "$RAY_AUTH_TOKEN"', environment=allocation) for _ in range(2)]
    assert len({done.stdout for done in calls}) == 2


def test_wrong_use_is_said_in_one_line(allocation: dict[str, str]) -> None:
    outside = {name: value for name, value in allocation.items() if name != "SLURM_JOB_ID"}
    for words, environment, said in (((), allocation, "give the command"), (("ls",), outside, "no Slurm allocation")):
        done = call(*words, environment=environment)
        assert done.returncode == 2
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert call("--help", environment=outside).stdout.startswith("usage: sbatch")


@pytest.mark.parametrize("script", sorted(SCRIPT.parent.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_clean(script: Path) -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    linted = subprocess.run([shellcheck, "--norc", script], capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout
