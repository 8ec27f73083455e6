PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo demo-full bench test test-s3 test-slow test-gpu lint demo-data demo-target lock clean

## The audit of the shipped demo, from nothing to a report.
demo: $(STAMP)
	$(BIN)/python jobs/demo.py --out runs/demo

## The same with every attack, all timesteps and every mask: the tables of the README (five minutes and more).
demo-full: $(STAMP)
	$(BIN)/python jobs/demo.py --out runs/demo-full --attacks sima,loss,pia,pian,secmi,pfami,epsilon \
		--masks.ranking calibration --geometry.distortion-share 1

## How fast everything is, in one table and runs/benchmark.json (a few minutes).
bench: $(STAMP)
	$(BIN)/python jobs/benchmark.py

## The whole fast test suite, with linter and type checker.
test: $(STAMP) lint
	$(BIN)/pytest

## Everything that talks to S3, against a SeaweedFS of its own on loopback; `test` and `test-slow` run it, too.
test-s3: $(STAMP)
	$(BIN)/pytest -m s3

## Checks that train and audit at full size, and more jobs and faults (twenty minutes and more).
test-slow: $(STAMP)
	$(BIN)/pytest -m slow

## What needs a GPU, and a table of its times; tests/gpu/README.md says how on a machine without network.
test-gpu: $(STAMP)
	$(BIN)/pytest -m gpu tests/gpu
	$(BIN)/ldm-scale benchmark device --json runs/device.json

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

## How the shipped shards were made: Noto emoji from npm, near-duplicates removed, halves drawn. Needs npm.
demo-data: $(STAMP)
	mkdir -p .cache/emoji
	cd .cache/emoji && npm pack --silent emoji-datasource-google@16.0.0 && tar xzf emoji-datasource-google-16.0.0.tgz
	$(BIN)/ldm-scale pack emoji .cache/emoji/package .cache/demo-shards \
		--near-duplicates 0.1 --max-samples 1200 --size 32 --shard-samples 100

## How the shipped target was made: trained on the members of the shipped shards (about 15 minutes on two cores).
demo-target: $(STAMP)
	$(BIN)/ldm-scale train --shards ldm_scale/demo/shards --out .cache/demo-target

## The image's dependencies, for its Python, with hashes. Without torch and what only its CUDA build needs, as that build
## depends on the driver: clusters/Dockerfile installs it.
CUDA := cuda-bindings cuda-toolkit nvidia-cudnn-cu13 nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvshmem-cu13 triton
lock: $(STAMP)
	printf '%s\n' $(CUDA) | $(BIN)/uv pip compile pyproject.toml --quiet --upgrade --generate-hashes \
		--python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-emit-package torch --excludes /dev/stdin \
		--custom-compile-command "make lock" --output-file clusters/requirements.lock

clean:
	rm -rf $(VENV) .cache build dist *.egg-info

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e '.[test]'
	touch $(STAMP)
