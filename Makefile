PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CONSTRAINTS := .ci/constraints.txt

# What tests start compiles the package each time if bytecode is not written: a tenth of their time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo demo-full bench test pytest test-s3 test-slow test-gpu test-versions lint demo-data demo-target lock clean

## The audit of the shipped demo, from nothing to a report.
demo: $(STAMP)
	$(BIN)/python jobs/demo.py --out runs/demo

## The same with every attack, all timesteps and every mask: the tables of the README (five minutes and more).
demo-full: $(STAMP)
	$(BIN)/python jobs/demo.py --out runs/demo-full --attacks sima,loss,pia,pian,secmi,pfami,epsilon \
		--masks.ranking calibration --geometry.distortion-share 1

## How fast everything is, in one table and runs/benchmark.json (about twelve minutes on two cores).
bench: $(STAMP)
	$(BIN)/python jobs/benchmark.py

## The whole fast test suite beside linter and type checker, in four processes for two cores: those with a Ray often wait.
test: $(STAMP)
	$(MAKE) --jobs 2 lint pytest

pytest: $(STAMP)
	$(BIN)/pytest --numprocesses 4 --dist loadgroup --no-loadscope-reorder --durations 20

## Everything that talks to S3, against a SeaweedFS of its own on loopback; `test` and `test-slow` run it, too.
test-s3: $(STAMP)
	$(BIN)/pytest -m s3

## Checks that train and audit at full size, and more jobs and faults (twenty minutes and more).
test-slow: $(STAMP)
	$(BIN)/pytest -m slow

## The ends of the ranges of pyproject.toml: what is tested with which versions, in a table (an hour; 15 GB).
test-versions: $(STAMP)
	.ci/versions

## What needs a GPU, and a table of its times; tests/gpu/README.md says how on a machine without network.
test-gpu: $(STAMP)
	$(BIN)/pytest -m gpu tests/gpu
	$(BIN)/ldm-scale benchmark device --json runs/device.json

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

## Shards like the shipped ones, but for the measure of near-duplicates: Noto emoji from npm, halves drawn. Needs npm.
demo-data: $(STAMP)
	mkdir -p .cache/emoji
	cd .cache/emoji && npm pack --silent emoji-datasource-google@16.0.0 && tar xzf emoji-datasource-google-16.0.0.tgz
	$(BIN)/ldm-scale pack emoji .cache/emoji/package .cache/demo-shards \
		--max-samples 1200 --size 32 --shard-samples 100

## How the shipped target was made: trained on the members of the shipped shards (about 15 minutes on two cores).
demo-target: $(STAMP)
	$(BIN)/ldm-scale train --shards ldm_scale/demo/shards --out .cache/demo-target

## The exact versions that `make` and the image install, from the ranges of pyproject.toml: all but torch's are the newest
## of today, and torch's is the Dockerfile's. The image's, for its Python and with hashes, are without torch and what only
## its CUDA build needs, as that build depends on the driver.
CUDA := cuda-bindings cuda-toolkit nvidia-cudnn-cu13 nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvshmem-cu13 triton
COMPILE := $(BIN)/uv pip compile pyproject.toml --quiet --upgrade --custom-compile-command "make lock"
lock: $(STAMP)
	grep -o 'torch==.*' clusters/Dockerfile | $(COMPILE) --constraints /dev/stdin \
		--extra test --universal --output-file $(CONSTRAINTS)
	printf '%s\n' $(CUDA) | $(COMPILE) --constraints $(CONSTRAINTS) --generate-hashes \
		--python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-emit-package torch --excludes /dev/stdin \
		--output-file clusters/requirements.lock

clean:
	rm -rf $(VENV) .cache build dist *.egg-info

$(STAMP): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) -e '.[test]'
	touch $(STAMP)
